"""Examples in pieces: as many frames at once as a protocol answers together, and targets one phrase at a time.

Data sets of videos read some frames of an example without the others; of all other data sets an example is read whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.media.images import read_stored_image
from refseg.structures import Example

if TYPE_CHECKING:
    from refseg.data.dataset import PhraseDataset

EXACTLY_ONE = "exactly-one"
MOST_PIXELS = 1 << 29  # of all masks of an example; beyond, they are read phrase by phrase


@dataclass(slots=True)
class Piece:
    """Some consecutive frames of an example, with what they are asked."""

    example: Example  # frames, masks and target frames of the piece alone
    first: int  # place of its first frame in the clip
    total: int  # frames of the whole clip
    other_targets: Callable[[], Tensor] | None = None  # [P, T', H, W], where overlapping parts are no target
    one_target: Callable[[int], Tensor | None] | None = (
        None  # [T, H, W] of a phrase, where all would fill memory
    )

    def target(self, row: int) -> Tensor | None:
        """[T', H, W] bool of one phrase; None where the data set has no masks."""
        if self.one_target is not None:
            return self.one_target(row)
        return None if self.example.masks is None else self.example.masks[row]

    @property
    def is_first(self) -> bool:
        """Whether the clip begins here."""
        return self.first == 0


def pieces(dataset: PhraseDataset, index: int, window: int | None) -> Iterator[Piece]:
    """Example `index` in pieces of at most `window` frames; whole where `window` is None or one frame is labelled."""
    names = _frame_names(dataset, index)
    if window is None or names is None or len(names) <= window:
        if names is not None and _fills_memory(dataset, index, len(names)):
            yield _one_by_one(dataset, index)
            return
        example = dataset[index]
        yield from _cut(example, window, _other_reading(dataset, index))
        return
    for first in range(0, len(names), window):
        places = range(first, min(first + window, len(names)))
        yield Piece(dataset.example(index, list(places)), first, len(names))  # type: ignore[attr-defined]


def can_read_parts(dataset: PhraseDataset) -> bool:
    """Whether the data set knows another reading of targets whose parts overlap."""
    return hasattr(getattr(dataset, "options", None), "masks") and hasattr(dataset, "masks")


def check_masks(target: Tensor | None, name: str, dataset: PhraseDataset) -> None:
    """
    Raises:
        InvalidInput: if there is no target.
    """
    if target is None:
        raise InvalidInput(
            f"{name} of {dataset.name} has no masks to compare with; --submission writes what its server expects"
        )


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


def _fills_memory(dataset: Any, index: int, frames: int) -> bool:
    """Whether the masks of all phrases of a whole video are too many to hold at once."""
    if not hasattr(dataset, "read_masks") or dataset.options.item != "clip":
        return False
    height, width = dataset.size(index)
    pixels: int = len(dataset.annotation(index).phrases) * frames * height * width
    return pixels > MOST_PIXELS


def _one_by_one(dataset: Any, index: int) -> Piece:
    """A whole video whose targets are read when their phrase is compared."""
    known, video = dataset.annotation(index), dataset.video(index)
    frames = torch.cat([read_stored_image(path) for path in known.paths])
    example = Example(
        name=known.name,
        frames=frames,
        phrases=known.phrases,
        registers=known.registers,
        ids=known.ids,
        objects=known.objects,
        no_target=torch.tensor(known.no_target),
        frame_names=known.frames,
    )

    def target(row: int) -> Tensor | None:
        masks = dataset.read_masks(video, [row], range(len(frames)))
        return None if masks is None else masks[0]

    return Piece(example, 0, len(frames), one_target=target)


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
