"""Region similarity J and contour accuracy F of videos, as the DAVIS 2017 tool computes them.

Source: "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (Perazzi et al., CVPR 2016) and
"The 2019 DAVIS Challenge on VOS" (Caelles et al., 2019). Departure: bins of the decay are whole numbers of any size; the
published tool wraps around beyond 256 frames.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.errors import InvalidInput

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]

TOLERANCE = 0.008  # of the diagonal: how far apart two contours may lie and still agree
MOST_PROPOSALS = 20  # of one video, in the unsupervised protocol
RECALL_ABOVE = 0.5
NUM_BINS = 4


@dataclass(frozen=True, slots=True)
class Accuracy:
    """J and F of a video, a row an object, a column a frame."""

    region: Numbers  # [objects, T]
    contour: Numbers  # [objects, T]

    @property
    def mean(self) -> float:
        """J&F: the mean of both means over objects."""
        return float((np.nanmean(self.region, axis=1).mean() + np.nanmean(self.contour, axis=1).mean()) / 2)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the tool prints of one series of frames."""

    mean: float
    recall: float  # share of frames above one half
    decay: float  # mean of the first quarter minus that of the last


def region_similarity(answer: Mask, target: Mask, void: Mask | None = None) -> float:
    """J of one frame [H, W]: intersection over union, 1 where both are empty; void pixels do not count."""
    counted = np.ones_like(target) if void is None else ~void
    union = np.count_nonzero((answer | target) & counted)
    return np.count_nonzero(answer & target & counted) / union if union else 1.0


def contour_accuracy(
    answer: Mask, target: Mask, void: Mask | None = None, *, tolerance: float = TOLERANCE
) -> float:
    """F of one frame [H, W]: harmonic mean of how much of either contour lies near the other.

    `tolerance` is a share of the diagonal, or pixels where it is 1 or more.
    """
    counted = np.ones_like(target) if void is None else ~void
    ours, theirs = boundary(answer & counted), boundary(target & counted)
    if not ours.any() and not theirs.any():
        return 1.0
    if not ours.any() or not theirs.any():
        return 0.0
    radius = math.ceil(tolerance * math.hypot(*target.shape)) if tolerance < 1 else math.ceil(tolerance)
    precision = np.count_nonzero(ours & _grown(theirs, radius)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _grown(ours, radius)) / np.count_nonzero(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Pixels [H, W] that differ from their neighbour to the east, south or south-east; the frame's edge is none."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def statistics(series: Numbers) -> Statistics:
    """Mean, recall and decay of one number a frame; frames without a number count in the recall as missed."""
    edges = np.round(np.linspace(1, len(series), NUM_BINS + 1) + 1e-10).astype(np.int64) - 1
    bins = [series[first : last + 1] for first, last in itertools.pairwise(edges)]
    return Statistics(
        mean=_mean(series),
        recall=float(np.mean(series > RECALL_ABOVE)),
        decay=_mean(bins[0]) - _mean(bins[-1]),
    )


def unsupervised(
    answer: NDArray[np.integer], target: NDArray[np.integer], void: Mask | None = None
) -> Accuracy:
    """J and F of a video whose answers carry numbers of their own: each object gets the proposal that fits it best.

    Rows follow the numbers of the matched proposals, as published, not those of the objects.

    Shapes:
        answer, target: [T, H, W] index maps, 0 for background. Objects are those up to the highest number of the
            target's first frame.
        void: [T, H, W], True where nothing counts.

    Raises:
        InvalidInput: if there is no object in the first frame, or there are more than 20 proposals.
    """
    num_objects, num_proposals = int(target[0].max()), int(answer.max())
    if num_objects == 0:
        raise InvalidInput("the first frame of the target shows no object; nothing can be compared")
    if num_proposals > MOST_PROPOSALS:
        raise InvalidInput(f"an answer holds {num_proposals} objects; the protocol allows {MOST_PROPOSALS}")
    proposals = range(1, max(num_proposals, num_objects) + 1)
    pairs = [
        [_of_object(answer == p, target == o, void) for o in range(1, num_objects + 1)] for p in proposals
    ]
    fit = np.array([[(pair[0].mean() + pair[1].mean()) / 2 for pair in row] for row in pairs])
    chosen = [pairs[p][o] for p, o in zip(*_assign(-fit), strict=True)]
    return Accuracy(np.stack([pair[0] for pair in chosen]), np.stack([pair[1] for pair in chosen]))


def semi_supervised(answer: NDArray[np.integer], target: NDArray[np.integer]) -> Accuracy:
    """J and F of a video whose answers carry the objects' numbers; first and last frame are left out.

    Raises:
        InvalidInput: if the answer holds numbers that the target's first frame does not.
    """
    num_objects = int(target[0].max())
    if int(answer.max()) > num_objects:
        raise InvalidInput(f"an answer holds object {int(answer.max())}, but there are only {num_objects}")
    inner = slice(1, -1)
    pairs = [_of_object(answer[inner] == o, target[inner] == o, None) for o in range(1, num_objects + 1)]
    return Accuracy(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))


def _of_object(answer: Mask, target: Mask, void: Mask | None) -> tuple[Numbers, Numbers]:
    """J and F of every frame [T] of one proposal and one object."""
    voids = [None] * len(target) if void is None else list(void)
    frames = list(zip(answer, target, voids, strict=True))
    return (
        np.array([region_similarity(*frame) for frame in frames]),
        np.array([contour_accuracy(*frame) for frame in frames]),
    )


def _assign(costs: Numbers) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return rows, columns


def _grown(edge: Mask, radius: int) -> Mask:
    """Every pixel within `radius` of an edge pixel: the distance transform says it in one pass, whatever the radius."""
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; half a unit of slack keeps float32 roots from deciding.
    grown: Mask = np.square(distance, dtype=np.float64) < radius * radius + 0.5
    return grown


def _mean(series: Numbers) -> float:
    return float(np.nanmean(series)) if np.isfinite(series).any() else math.nan
