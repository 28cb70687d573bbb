"""Referring to one thing, several or none: the metrics of gRefCOCO, for masks (GRES) and for boxes (GREC).

Masks: a model answers with a mask and with the claim that nothing answers to the phrase. gIoU is the mean over phrases of
IoU, 1 for a phrase rightly refused and 0 for one wrongly refused or wrongly answered (be the mask empty or not). cIoU sums
intersections and unions; a wrongly refused phrase keeps the union of its mask, a rightly refused one adds nothing.
N-acc and T-acc are the shares of phrases without and with a target that were recognised as such.

Boxes: those of a high enough score are the answer. Pairs with targets are made greedily by *generalised* IoU, as published
(the text says IoU); a phrase is right where F1 = 2TP / (2TP + FP + FN) is 1, or where nothing was asked for and answered.

Sources: "GRES: Generalized Referring Expression Segmentation" (Liu et al., CVPR 2023), with the accuracies as corrected in
August 2023; "GREC: Generalized Referring Expression Comprehension" (He et al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refseg.errors import InvalidInput
from refseg.metrics.protocols import GRES, Protocol
from refseg.metrics.scores import mean, precision, ratio

SCORE = (
    0.7  # of a box that counts as an answer; compared in float64, so that a stored float32 0.7 is below it
)
OVERLAP = 0.5  # generalised IoU from which a box and a target are a pair
SMALL_MASK = 50  # pixels; the paper clears smaller masks of models that cannot say "nothing"

Boxes = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Refusable:
    """One phrase: pixel counts, whether something was asked for, and whether the model said that nothing is there."""

    intersection: int
    union: int
    has_target: bool
    is_refused: bool


@dataclass(frozen=True, slots=True)
class Generalised:
    """Shares in [0, 1]; nan where no phrase of the kind was there."""

    giou: float
    ciou: float
    n_acc: float
    t_acc: float
    precision: dict[str, float]  # P@X over phrases with a target

    @property
    def published_accuracies(self) -> tuple[float, float]:
        """N-acc and T-acc as the published code prints them: both 0 where no phrase is without a target."""
        return (0.0, 0.0) if math.isnan(self.n_acc) else (self.n_acc, self.t_acc)


def generalised_scores(rows: Sequence[Refusable], protocol: Protocol = GRES) -> Generalised:
    """gIoU, cIoU, N-acc, T-acc and P@X of phrases."""
    ious = [_iou(row, protocol) for row in rows]
    asked = [iou for iou, row in zip(ious, rows, strict=True) if row.has_target]
    return Generalised(
        giou=mean(ious),
        ciou=ratio(
            sum(row.intersection for row in rows if row.has_target and not row.is_refused),
            sum(row.union for row in rows if row.has_target or not row.is_refused),
        ),
        n_acc=mean(row.is_refused for row in rows if not row.has_target),
        t_acc=mean(not row.is_refused for row in rows if row.has_target),
        precision=precision(asked, protocol),
    )


def _iou(row: Refusable, protocol: Protocol) -> float:
    if not row.has_target:
        return float(row.is_refused)
    return 0.0 if row.is_refused else protocol.iou(row.intersection, row.union)


@dataclass(frozen=True, slots=True)
class BoxAnswer:
    """The boxes offered for one phrase, and those asked for."""

    scores: Boxes  # [R]
    boxes: Boxes  # [R, 4] xyxy
    targets: Boxes  # [N, 4] xyxy; none where nothing answers to the phrase


@dataclass(frozen=True, slots=True)
class BoxScores:
    """Shares in [0, 1]; nan where no phrase of the kind was there."""

    f1: float  # phrases answered without a fault
    n_acc: float
    t_acc: float


def box_scores(answers: Iterable[BoxAnswer], *, score: float = SCORE, overlap: float = OVERLAP) -> BoxScores:
    """GREC: how often exactly the right boxes are given.

    Raises:
        InvalidInput: if boxes are not [R, 4] with one score each.
    """
    rights: list[bool] = []
    refused: list[bool] = []
    kept: list[bool] = []
    for answer in answers:
        given = _kept(answer, score)
        rights.append(_is_right(given, answer.targets, overlap))
        (kept if len(answer.targets) else refused).append(bool(len(given)) is bool(len(answer.targets)))
    return BoxScores(f1=mean(rights), n_acc=mean(refused), t_acc=mean(kept))


def _kept(answer: BoxAnswer, score: float) -> Boxes:
    if answer.boxes.ndim != 2 or answer.boxes.shape[1] != 4 or len(answer.boxes) != len(answer.scores):
        raise InvalidInput(
            f"boxes of shape {answer.boxes.shape} with {len(answer.scores)} scores; they are [R, 4] with R scores"
        )
    return answer.boxes[answer.scores.astype(np.float64) >= score]


def _is_right(given: Boxes, targets: Boxes, overlap: float) -> bool:
    if not len(targets) or not len(given):
        return not len(targets) and not len(given)
    pairs = _greedy_pairs(generalised_iou(given, targets), overlap)
    return 2 * pairs / (2 * pairs + (len(given) - pairs) + (len(targets) - pairs)) >= 1.0


def _greedy_pairs(overlaps: Boxes, threshold: float) -> int:
    """How many pairs are made when the best one left is taken each time."""
    left, pairs = overlaps.copy(), 0
    for _ in range(min(left.shape)):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        if left[row, column] < threshold:
            break
        pairs += 1
        left[row], left[:, column] = 0, 0
    return pairs


def precision_of_boxes(
    answers: Sequence[BoxAnswer], ranks: Sequence[int] = (1, 5, 10), *, overlap: float = OVERLAP
) -> tuple[float, ...]:
    """REC as the MDETR family counts it: the share of phrases of which one of the k best boxes fits, by generalised IoU.

    Boxes are ranked by score, equal scores by the box itself.
    """
    best = []
    for answer in answers:
        order = sorted(
            range(len(answer.scores)), key=lambda row: (answer.scores[row], *answer.boxes[row]), reverse=True
        )
        best.append(generalised_iou(answer.boxes[order], answer.targets[:1])[:, 0])
    return tuple(mean(bool(len(row)) and row[:k].max() >= overlap for row in best) for k in ranks)


def generalised_iou(boxes: Boxes, targets: Boxes) -> Boxes:
    """Generalised IoU [R, N] of xyxy boxes [R, 4] and [N, 4], in float32 as published.

    Source: "Generalized Intersection over Union" (Rezatofighi et al., CVPR 2019).
    """
    ours, theirs = boxes.astype(np.float32)[:, None], targets.astype(np.float32)[None]
    shared = _area(np.maximum(ours[..., :2], theirs[..., :2]), np.minimum(ours[..., 2:], theirs[..., 2:]))
    union = _area(ours[..., :2], ours[..., 2:]) + _area(theirs[..., :2], theirs[..., 2:]) - shared
    hull = _area(np.minimum(ours[..., :2], theirs[..., :2]), np.maximum(ours[..., 2:], theirs[..., 2:]))
    with np.errstate(divide="ignore", invalid="ignore"):
        overlaps: Boxes = shared / union - (hull - union) / hull
    return np.nan_to_num(overlaps, nan=-1.0, neginf=-1.0)  # boxes without area fit nothing


def _area(low: Boxes, high: Boxes) -> Boxes:
    area: Boxes = np.clip(high - low, 0, None).prod(-1)
    return area
