"""Several objects of one video on one index map, and how well it agrees with the annotated one.

Source: the published inference of ReferFormer on Ref-DAVIS17. Phrases of a video are numbered 4 k + a for object k and
annotator's run a; the objects of a run are merged and evaluated apart from the other runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.metrics import contour
from refseg.metrics.protocols import Protocol

RUNS = 4  # first-frame and full-video phrases of two annotators
BACKGROUND = 0.1  # score of "none of the objects"
LEAST_SCORE = 0.5  # an object's score below it counts as zero
VOID = 255


@dataclass(slots=True)
class Merged:
    """The index maps of every run of one video, filled object by object and piece by piece."""

    pieces: dict[int, list[Tensor]] = field(default_factory=dict)  # run: [t, H, W] uint8 each
    _best: dict[int, Tensor] = field(default_factory=dict)  # of the piece at hand: the highest score so far
    _labels: dict[int, Tensor] = field(default_factory=dict)

    def add(self, run: int, label: int, soft: Tensor) -> None:
        """The scores [t, H, W] of one object; among equal scores the one added first stays."""
        if run not in self._best:
            self._best[run] = torch.full_like(soft, BACKGROUND)
            self._labels[run] = torch.zeros(soft.shape, dtype=torch.uint8)
        wins = (soft >= LEAST_SCORE) & (soft > self._best[run])
        self._labels[run][wins] = label
        self._best[run][wins] = soft[wins]

    def end_piece(self) -> None:
        """The next scores are of later frames."""
        for run, labels in self._labels.items():
            self.pieces.setdefault(run, []).append(labels)
        self._best, self._labels = {}, {}

    def maps(self) -> dict[int, np.ndarray]:
        """Index maps [T, H, W] uint8 by run."""
        return {run: torch.cat(parts).numpy() for run, parts in sorted(self.pieces.items())}


def run_and_label(number: str | None, video: str) -> tuple[int, int]:
    """The run, and the label from 1, of the phrase that a data set numbers so.

    Raises:
        InvalidInput: if it is no number.
    """
    if number is None or not number.isdecimal():
        raise InvalidInput(
            f"{video}: phrase {number!r} has no number; objects are merged where phrases are numbered 4 x object + run"
        )
    return int(number) % RUNS, int(number) // RUNS + 1


def compare(
    maps: dict[int, np.ndarray], annotated: np.ndarray, protocol: Protocol, video: str
) -> list[dict[str, Any]]:
    """J and F of every object in every frame, for each run, as plain data.

    Args:
        annotated: [T, H, W] index maps, 255 where nothing counts.

    Raises:
        InvalidInput: if a map has another size, or more objects than the protocol takes.
    """
    void, objects = annotated == VOID, np.where(annotated == VOID, 0, annotated)
    entries = []
    for run, labels in maps.items():
        if labels.shape != annotated.shape:
            raise InvalidInput(f"{video}: answers are {labels.shape} and annotations {annotated.shape}")
        try:
            accuracy = _accuracy(labels, objects, void, protocol)
        except InvalidInput as error:
            raise InvalidInput(f"{video}, run {run}: {error}") from error
        entries.append(
            {
                "protocol": protocol.name,
                "run": run,
                "region": accuracy.region.tolist(),
                "contour": accuracy.contour.tolist(),
            }
        )
    return entries


def _accuracy(
    labels: np.ndarray, objects: np.ndarray, void: np.ndarray, protocol: Protocol
) -> contour.Accuracy:
    if protocol.matching == "number":
        return contour.semi_supervised(labels, objects)
    return contour.unsupervised(labels, objects, void)


def index_maps(masks: Sequence[Tensor] | Tensor, labels: Sequence[int]) -> np.ndarray:
    """Masks [N, T, H, W] of objects as index maps [T, H, W]; a later object covers an earlier one."""
    maps = torch.zeros(masks[0].shape, dtype=torch.uint8)
    for mask, label in zip(masks, labels, strict=True):
        maps[mask] = label
    return maps.numpy()
