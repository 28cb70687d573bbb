"""What a protocol makes of pixel counts: the same counts, another convention, another number.

Counts are whole numbers, summed without rounding. A metric that nothing can be said of is nan: overall IoU without a
pixel anywhere, precision without a phrase.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refseg.metrics.protocols import Protocol


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixel counts of one phrase; the frames of a clip are pooled."""

    intersection: int
    answered: int
    target: int
    contour: float = (
        math.nan
    )  # boundary F of the one frame, or its mean over frames; nan where it was not taken

    @property
    def union(self) -> int:
        """Pixels in either mask."""
        return self.answered + self.target - self.intersection


def overlap_scores(rows: Sequence[Pixels], protocol: Protocol) -> dict[str, float]:
    """oIoU, mIoU, P@X, F, `overall` (the mean of mIoU and F), `kept` and `refused` of phrases, as shares.

    Where the protocol says that two empty masks are not counted (`empty` is None), phrases without a target count in
    `refused` alone.
    """
    counted = [row for row in rows if row.target] if protocol.empty is None else list(rows)
    ious = [protocol.iou(row.intersection, row.union) for row in counted]
    miou, contour = mean(ious), mean(row.contour for row in counted)
    return {
        "mIoU": miou,
        "oIoU": ratio(sum(row.intersection for row in counted), sum(row.union for row in counted)),
        **precision(ious, protocol),
        "F": contour,
        "overall": (miou + contour) / 2,
        "kept": mean(row.answered > 0 for row in rows if row.target),
        "refused": mean(row.answered == 0 for row in rows if not row.target),
    }


def precision(ious: Sequence[float], protocol: Protocol) -> dict[str, float]:
    """P@X: the share of IoUs that reach each threshold of the protocol."""
    return {
        threshold_name(threshold): mean(protocol.counts(iou, threshold) for iou in ious)
        for threshold in protocol.thresholds
    }


def threshold_name(threshold: float) -> str:
    """`P@0.5` and its like; the dust of floating-point steps is not printed."""
    return f"P@{round(threshold, 2)}"


def mean(values: Iterable[float]) -> float:
    """The mean; nan of nothing."""
    values = list(values)
    return ratio(math.fsum(values), len(values))


def ratio(part: float, whole: float) -> float:
    """A share; nan of nothing."""
    return part / whole if whole else math.nan
