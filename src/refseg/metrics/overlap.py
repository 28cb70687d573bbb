"""How much answers overlap what was asked for: oIoU, mIoU, P@X, J, and whether absent things are refused.

Conventions (published codes differ in every one of them; these are named beside each result):

- Masks are compared at the size they are given in; evaluation gives them at the size of the stored frame.
- oIoU (cIoU in some papers): intersections summed over all phrases, divided by unions summed over all phrases.
- mIoU (gIoU in some papers): the mean over phrases of IoU, pixels pooled over the frames of a clip.
- P@X: the share of phrases whose IoU is X or more.
- J: the mean over phrases of the mean over frames of IoU; a frame where both masks are empty counts as 1. For images J
  is mIoU.
- A phrase that nothing answers to (its target is empty in every frame) is left out of all of these: its IoU would be 0 or
  1 by convention, not by measurement. It counts in `refused` instead: the share of such phrases answered by an empty
  mask. `kept` is the other side: the share of phrases with a target whose answer is not empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from refseg.errors import InvalidInput, UnknownName

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixel counts of one phrase, [T'] int64 each: one number a frame, so that any convention can be computed later."""

    intersection: Tensor
    answered: Tensor
    target: Tensor

    @property
    def union(self) -> Tensor:
        """Pixels in either mask [T']."""
        return self.answered + self.target - self.intersection

    @property
    def has_target(self) -> bool:
        """Whether anything answers to the phrase."""
        return bool(self.target.any())

    @property
    def is_refused(self) -> bool:
        """Whether the answer is empty in every frame."""
        return not bool(self.answered.any())

    @property
    def iou(self) -> float:
        """IoU with pixels pooled over frames; nan where both masks are empty everywhere."""
        return _ratio(int(self.intersection.sum()), int(self.union.sum()))

    @property
    def mean_iou_of_frames(self) -> float:
        """Mean over frames of IoU, 1 where both masks are empty."""
        per_frame = self.intersection.double() / self.union.clamp(min=1)
        return float(per_frame.where(self.union > 0, 1.0).mean())


def overlap(answer: Tensor, target: Tensor) -> Overlap:
    """Pixel counts of an answer and its target.

    Shapes:
        answer, target: [T', H, W] bool of one size.

    Raises:
        InvalidInput: if the sizes differ.
    """
    if answer.shape != target.shape:
        raise InvalidInput(
            f"an answer of {tuple(answer.shape)} cannot be compared with a target of {tuple(target.shape)}; "
            "both are [frames, height, width]"
        )
    return Overlap(*(mask.flatten(1).sum(1) for mask in (answer & target, answer, target)))


@dataclass(frozen=True, slots=True)
class Score:
    """What a set of phrases scored, in [0, 1]; nan where no phrase of the kind was there."""

    phrases: int  # phrases with a target
    oiou: float
    miou: float
    precision: tuple[float, ...]  # at THRESHOLDS
    j: float
    kept: float  # share of phrases with a target whose answer is not empty
    no_target: int  # phrases that nothing answers to
    refused: float  # share of those answered by an empty mask


@dataclass(slots=True)
class Overlaps:
    """The overlaps of many phrases, by register; "" is the register of phrases that have none."""

    rows: dict[str, list[Overlap]] = field(default_factory=dict)

    def add(self, answer: Tensor, target: Tensor, *, register: str = "") -> None:
        """Counts one phrase: bool masks [T', H, W] of its answer and its target."""
        self.rows.setdefault(register, []).append(overlap(answer, target))

    def extend(self, other: Overlaps) -> None:
        """Takes in what another part of the data scored."""
        for register, rows in other.rows.items():
            self.rows.setdefault(register, []).extend(rows)

    @property
    def registers(self) -> tuple[str, ...]:
        """The registers met so far, in the order they came."""
        return tuple(self.rows)

    def score(self, *registers: str) -> Score:
        """The score of the phrases of `registers`, of all phrases where none is named.

        Raises:
            UnknownName: if no phrase of a register was counted.
        """
        for register in registers:
            if register not in self.rows:
                raise UnknownName("register in this result", register, self.rows)
        return _score([row for name in (registers or self.rows) for row in self.rows[name]])


def _score(rows: list[Overlap]) -> Score:
    real = [row for row in rows if row.has_target]
    absent = [row for row in rows if not row.has_target]
    ious = torch.tensor([row.iou for row in real], dtype=torch.float64)
    return Score(
        phrases=len(real),
        oiou=_ratio(
            sum(int(row.intersection.sum()) for row in real), sum(int(row.union.sum()) for row in real)
        ),
        miou=_mean(ious.tolist()),
        precision=tuple(_mean((ious >= threshold).tolist()) for threshold in THRESHOLDS),
        j=_mean(row.mean_iou_of_frames for row in real),
        kept=_mean(not row.is_refused for row in real),
        no_target=len(absent),
        refused=_mean(row.is_refused for row in absent),
    )


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return _ratio(math.fsum(values), len(values))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
