"""Examples in pieces: as many frames at once as a protocol answers together, and targets one phrase at a time.

Data sets of videos read some frames of an example without the others; of all other data sets an example is read whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from refseg.data.catalog import PhraseDataset
    from refseg.structures import Example

EXACTLY_ONE = "exactly-one"


@dataclass(slots=True)
class Piece:
    """Some consecutive frames of an example, with what they are asked."""

    example: Example  # frames, masks and target frames of the piece alone
    first: int  # place of its first frame in the clip
    total: int  # frames of the whole clip
    other_targets: Callable[[], Tensor] | None = None  # [P, T', H, W], where overlapping parts are no target

    @property
    def is_first(self) -> bool:
        """Whether the clip begins here."""
        return self.first == 0


def pieces(dataset: PhraseDataset, index: int, window: int | None) -> Iterator[Piece]:
    """Example `index` in pieces of at most `window` frames; whole where `window` is None or one frame is labelled."""
    names = _frame_names(dataset, index)
    if window is None or names is None or len(names) <= window:
        example = dataset[index]
        yield from _cut(example, window, _other_reading(dataset, index))
        return
    for first in range(0, len(names), window):
        places = range(first, min(first + window, len(names)))
        yield Piece(dataset.example(index, list(places)), first, len(names))  # type: ignore[attr-defined]


def can_read_parts(dataset: PhraseDataset) -> bool:
    """Whether the data set knows another reading of targets whose parts overlap."""
    return hasattr(getattr(dataset, "options", None), "masks") and hasattr(dataset, "masks")


def check_masks(piece: Piece, dataset: PhraseDataset) -> Tensor:
    """The targets of a piece.

    Raises:
        InvalidInput: if it has none.
    """
    if piece.example.masks is None:
        raise InvalidInput(
            f"{piece.example.name} of {dataset.name} has no masks to compare with; --submission writes what its server expects"
        )
    return piece.example.masks


def annotated_boxes(dataset: PhraseDataset, index: int) -> list[list[float] | None]:
    """The stored box (xyxy in source pixels) of each phrase of an example; None where there is none, or several objects."""
    if not hasattr(dataset, "pairs") or not hasattr(dataset, "table"):
        return []
    boxes: list[list[float] | None] = []
    for row, _ in dataset.pairs(index):
        objects = dataset.table.reference(row).objects
        x, y, width, height = objects[0].box if len(objects) == 1 else (math.nan,) * 4
        boxes.append(None if math.isnan(x) else [x, y, x + width, y + height])
    return boxes


def _frame_names(dataset: PhraseDataset, index: int) -> Sequence[str] | None:
    """The frames of a video data set's example, where it can read some of them."""
    if not hasattr(dataset, "example") or not hasattr(dataset, "annotation"):
        return None
    known = dataset.annotation(index)
    names: Sequence[str] | None = known.frames if known.target_frames is None else None
    return names


def _cut(example: Example, window: int | None, others: Callable[[], Tensor] | None) -> Iterator[Piece]:
    total = len(example.frames)
    if window is None or example.target_frames is not None or total <= window:
        yield Piece(example, 0, total, others)
        return
    for first in range(0, total, window):
        part = slice(first, first + window)
        masks = None if example.masks is None else example.masks[:, part]
        names = None if example.frame_names is None else example.frame_names[part]
        yield Piece(
            replace(example, frames=example.frames[part], masks=masks, frame_names=names, things=None),
            first,
            total,
        )


def _other_reading(dataset: PhraseDataset, index: int) -> Callable[[], Tensor] | None:
    if not can_read_parts(dataset):
        return None
    other: Any = copy.copy(dataset)
    other.options = replace(other.options, masks=EXACTLY_ONE)

    def masks() -> Tensor:
        found: Tensor = other.masks(index)
        return found

    return masks
