"""One answer looked at in several ways: at another size, under another threshold, against another reading of the target.

A protocol asks for one view; protocols that ask for the same one share its counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from refseg.metrics.protocols import Protocol
from refseg.structures import Placement


@dataclass(frozen=True, slots=True, order=True)
class View:
    """A size, a threshold (None is the checkpoint's own) and a reading of targets whose parts overlap."""

    at: Literal["source", "canvas"] = "source"
    threshold: float | None = None
    parts: Literal["union", "exactly-one"] = "union"

    @property
    def name(self) -> str:
        """What files call it."""
        threshold = "" if self.threshold is None else f" above {self.threshold}"
        return self.at + threshold + ("" if self.parts == "union" else f", {self.parts}")


OWN = View()


@dataclass(frozen=True)
class AnswerPlan:
    """What has to be taken of every answer, so that each of `protocols` can be computed."""

    protocols: tuple[Protocol, ...]
    threshold: float | None = None  # the checkpoint's own, where it is known
    readings: frozenset[str] = frozenset({"union"})  # of targets, that the data set can give
    frames_at_once: int | None = None  # instead of what the protocols say; 0 is the whole clip

    def view(self, protocol: Protocol) -> View:
        """The view that a protocol compares in."""
        asked = protocol.mask_threshold
        reading = protocol.overlapping_parts if protocol.overlapping_parts in self.readings else "union"
        return View(protocol.at, None if asked == self.threshold else asked, reading)

    @property
    def views(self) -> tuple[View, ...]:
        """All views, the user's own first."""
        wanted = {self.view(p) for p in self.protocols if p.kind in ("overlap", "generalised")}
        return (OWN, *sorted(wanted - {OWN}, key=lambda view: view.name))

    @property
    def takes_contours(self) -> bool:
        """Whether the boundary F of every frame is needed."""
        return any(p.kind == "video" or "F" in p.metrics for p in self.protocols if p.kind != "objects")

    @property
    def takes_candidates(self) -> bool:
        """Whether all candidates are needed, not the chosen one alone."""
        return any(p.kind == "ranked" for p in self.protocols)

    @property
    def merges_objects(self) -> bool:
        """Whether the objects of a video are merged into index maps."""
        return any(p.kind == "objects" for p in self.protocols)

    @property
    def window(self) -> int | None:
        """Frames that are answered at once; None is the whole clip."""
        if self.frames_at_once is not None:
            return self.frames_at_once or None
        windows = {p.window for p in self.protocols if p.window}
        return min(windows) if windows else None


def target_on_canvas(masks: Tensor, placement: Placement) -> Tensor:
    """Targets [T', H, W] resized to the content by Pillow's nearest filter, as published, and put on the canvas [T', h, w]."""
    from PIL import Image

    (top, left), (height, width) = placement.offset, placement.content
    canvas = torch.zeros(len(masks), *placement.canvas, dtype=torch.bool)
    for frame, mask in zip(canvas, masks, strict=True):
        picture = Image.fromarray(mask.numpy().astype(np.uint8))
        resized = np.array(picture.resize((width, height), Image.Resampling.NEAREST))
        frame[top : top + height, left : left + width] = torch.from_numpy(resized > 0)
    return canvas


def counts_of(answer: Tensor, target: Tensor) -> list[list[int]]:
    """Pixels of the intersection, the answer and the target [3][T'] of bool masks [T', H, W]."""
    ours, theirs = answer.numpy(), target.numpy()
    pairs = zip(ours, theirs, strict=True)
    return [
        [int(np.count_nonzero(a & t)) for a, t in pairs],
        [int(np.count_nonzero(mask)) for mask in ours],
        [int(np.count_nonzero(mask)) for mask in theirs],
    ]


def join_counts(parts: Iterable[list[list[int]]]) -> list[list[int]]:
    """Counts of consecutive pieces of a clip as one."""
    return [[count for piece in column for count in piece] for column in zip(*parts, strict=True)]


def centre_of(target: Tensor) -> list[float] | None:
    """Where a target [T', H, W] has its middle in the first frame that shows it: x, y as shares; None where none does."""
    for mask in target:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows):
            middle = [(float(part[0]) + float(part[-1]) + 1) / 2 for part in (columns, rows)]
            return [middle[0] / mask.shape[1], middle[1] / mask.shape[0]]
    return None
