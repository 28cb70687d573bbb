"""Region similarity J and contour accuracy F of videos, as the DAVIS 2017 tool computes them.

Source: "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (Perazzi et al., CVPR 2016) and
"The 2019 DAVIS Challenge on VOS" (Caelles et al., 2019). Departure: bins of the decay are whole numbers of any size; the
published tool wraps around beyond 256 frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refseg.errors import InvalidInput
from refseg.metrics.boundary import BITS, Window, counts_of, edges_of, grown, planes_of, radius_of, window_of
from refseg.metrics.scores import mean

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
class ClipAccuracy:
    """J and F of one phrase about a clip, or their means over phrases."""

    region: float
    contour: float

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.contour) / 2


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the tool prints of one series of frames."""

    mean: float
    recall: float  # share of frames above one half
    decay: float  # mean of the first quarter minus that of the last


def region_similarity(answer: Mask, target: Mask, void: Mask | None = None) -> float:
    """J of one frame [H, W]: intersection over union, 1 where both are empty; void pixels do not count."""
    if void is not None:
        answer, target = answer & ~void, target & ~void
    shared = np.count_nonzero(answer & target)
    union = np.count_nonzero(answer) + np.count_nonzero(target) - shared
    return shared / union if union else 1.0


def contour_accuracy(
    answer: Mask, target: Mask, void: Mask | None = None, *, tolerance: float = TOLERANCE
) -> float:
    """F of one frame [H, W]: harmonic mean of how much of either contour lies near the other.

    `tolerance` is a share of the diagonal, or pixels where it is 1 or more.
    """
    voids = None if void is None else void[None]
    return float(contour_accuracies(answer[None], target[None], voids, tolerance=tolerance)[0])


def contour_accuracies(
    answers: Mask, targets: Mask, voids: Mask | None = None, *, tolerance: float = TOLERANCE
) -> Numbers:
    """F [T] of every frame of masks [T, H, W]; four frames share each pass over memory."""
    if voids is not None:
        answers, targets = answers & ~voids, targets & ~voids
    radius = radius_of(tolerance, (targets.shape[-2], targets.shape[-1]))
    together = BITS // 2
    return np.array(
        [
            value
            for first in range(0, len(targets), together)
            for value in _contours(
                answers[first : first + together], targets[first : first + together], radius
            )
        ]
    )


def _contours(answers: Mask, targets: Mask, radius: int) -> list[float]:
    """F of at most four frames: answers are the low bits, targets the high ones."""
    masks, count = [*answers, *targets], len(answers)
    edges = edges_of(planes_of(masks, window_of(masks)))
    reach = grown(edges, radius)
    theirs = (reach >> np.uint8(count)) | (
        reach << np.uint8(count)
    )  # beside each contour, the other one's reach
    lengths, near = counts_of(edges, 2 * count), counts_of(edges & theirs, 2 * count)
    return [_harmonic(lengths[t::count], near[t::count]) for t in range(count)]


def _harmonic(lengths: Sequence[int], near: Sequence[int]) -> float:
    """F of two contours' lengths, and of how many pixels of each lie near the other."""
    if not all(lengths):
        return float(not any(lengths))
    precision, recall = near[0] / lengths[0], near[1] / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def clip_accuracy(answers: Mask, targets: Mask) -> ClipAccuracy:
    """Mean J and F over all frames of masks [T, H, W], as MeViS and Ref-YouTube-VOS count them.

    Raises:
        InvalidInput: if the shapes differ.
    """
    if answers.shape != targets.shape:
        raise InvalidInput(
            f"an answer of {answers.shape} cannot be compared with a target of {targets.shape}"
        )
    region = [region_similarity(*frame) for frame in zip(answers, targets, strict=True)]
    return ClipAccuracy(mean(region), mean(contour_accuracies(answers, targets).tolist()))


def mean_accuracy(clips: Sequence[ClipAccuracy]) -> ClipAccuracy:
    """The plain means over phrases."""
    return ClipAccuracy(mean(clip.region for clip in clips), mean(clip.contour for clip in clips))


def boundary(mask: Mask) -> Mask:
    """Pixels [H, W] that differ from their neighbour to the east, south or south-east; the frame's edge is none."""
    return edges_of(mask).astype(np.bool_)


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
    proposals = max(num_proposals, num_objects)
    voids = [None] * len(target) if void is None else list(void)
    frames = [_all_pairs(*frame, proposals, num_objects) for frame in zip(answer, target, voids, strict=True)]
    region, contour = (
        np.stack(part, axis=-1) for part in zip(*frames, strict=True)
    )  # [proposals, objects, T]
    rows, columns = _assign(-(region.mean(-1) + contour.mean(-1)) / 2)
    return Accuracy(region[rows, columns], contour[rows, columns])


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
    frames = zip(answer, target, voids, strict=True)
    return (
        np.array([region_similarity(*frame) for frame in frames]),
        contour_accuracies(answer, target, void),
    )


def _all_pairs(
    answer: NDArray[np.integer],
    target: NDArray[np.integer],
    void: Mask | None,
    num_proposals: int,
    num_objects: int,
) -> tuple[Numbers, Numbers]:
    """J and F [proposals, objects] of one frame of index maps [H, W]; every contour is found and grown once."""
    counted = np.ones(target.shape, dtype=np.bool_) if void is None else ~void
    ours = [(answer == number) & counted for number in range(1, num_proposals + 1)]
    theirs = [(target == number) & counted for number in range(1, num_objects + 1)]
    masks = [*ours, *theirs]
    window, radius = window_of(masks), radius_of(TOLERANCE, (target.shape[0], target.shape[1]))
    region = np.array([[region_similarity(p[window], o[window]) for o in theirs] for p in ours])
    contours = [
        c for first in range(0, len(masks), BITS) for c in _found(masks[first : first + BITS], window, radius)
    ]
    contour = np.array(
        [[_accuracy(p, o) for o in contours[num_proposals:]] for p in contours[:num_proposals]]
    )
    return region, contour


@dataclass(frozen=True, slots=True)
class _Contour:
    """One contour in a window, and what lies near it."""

    pixels: NDArray[np.intp]  # [N] flat indices
    reach: NDArray[np.uint8]  # [h * w] flat; this contour's is `bit`
    bit: np.uint8


def _found(masks: Sequence[Mask], window: Window, radius: int) -> list[_Contour]:
    edges = edges_of(planes_of(masks, window))
    reach = grown(edges, radius).ravel()
    places = np.flatnonzero(edges)  # few pixels are on any contour; those of each are looked for among them
    values, bits = edges.ravel()[places], [np.uint8(1 << k) for k in range(len(masks))]
    return [_Contour(places[values & bit > 0], reach, bit) for bit in bits]


def _accuracy(ours: _Contour, theirs: _Contour) -> float:
    near = [
        int(np.count_nonzero(other.reach[one.pixels] & other.bit))
        for one, other in ((ours, theirs), (theirs, ours))
    ]
    return _harmonic([len(ours.pixels), len(theirs.pixels)], near)


def _assign(costs: Numbers) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return rows, columns


def _mean(series: Numbers) -> float:
    return float(np.nanmean(series)) if np.isfinite(series).any() else math.nan
