"""Examples in pieces: as many frames at once as a protocol answers together, and targets one phrase at a time.

Data sets of videos read some frames of an example without the others; of all other data sets an example is read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
class ClipChunk:
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


def chunks(dataset: PhraseDataset, index: int, window: int | None) -> Iterator[ClipChunk]:
    """Example `index` in pieces of at most `window` frames; whole where `window` is None or one frame is labelled."""
    names = _frame_names(dataset, index)
    if window is None or names is None or len(names) <= window:
        if names is not None and _fills_memory(dataset, index, len(names)):
            yield lazy_masks(dataset, index)
            return
        example = dataset[index]
        yield from _split(example, window, _other_reading(dataset, index))
        return
    for first in range(0, len(names), window):
        places = range(first, min(first + window, len(names)))
        yield ClipChunk(dataset.example(index, list(places)), first, len(names))


def check_masks(target: Tensor | None, name: str, dataset: PhraseDataset) -> None:
    """
    Raises:
        InvalidInput: if there is no target.
    """
    if target is None:
        raise InvalidInput(
            f"{name} of {dataset.name} has no masks to compare with; --submission writes what its server expects"
        )


def _fills_memory(dataset: PhraseDataset, index: int, frames: int) -> bool:
    """Whether the masks of all phrases of a whole video are too many to hold at once."""
    if not dataset.reads_masks_alone or dataset.options.item != "clip":
        return False
    height, width = dataset.size(index)
    pixels: int = len(dataset.annotation(index).phrases) * frames * height * width
    return pixels > MOST_PIXELS


def lazy_masks(dataset: PhraseDataset, index: int) -> ClipChunk:
    """A whole video whose targets are read when their phrase is compared."""
    known = dataset.annotation(index)
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
        masks = dataset.masks(index, rows=[row])
        return None if masks is None else masks[0]

    return ClipChunk(example, 0, len(frames), one_target=target)


def _frame_names(dataset: PhraseDataset, index: int) -> Sequence[str] | None:
    """The frames of a video data set's example, where it can read some of them."""
    if not dataset.reads_frames_alone:
        return None
    known = dataset.annotation(index)
    return known.frames if known.target_frames is None else None


def _split(example: Example, window: int | None, others: Callable[[], Tensor] | None) -> Iterator[ClipChunk]:
    total = len(example.frames)
    if window is None or example.target_frames is not None or total <= window:
        yield ClipChunk(example, 0, total, others)
        return
    for first in range(0, total, window):
        part = slice(first, first + window)
        masks = None if example.masks is None else example.masks[:, part]
        names = None if example.frame_names is None else example.frame_names[part]
        yield ClipChunk(
            replace(example, frames=example.frames[part], masks=masks, frame_names=names, things=None),
            first,
            total,
        )


def _other_reading(dataset: PhraseDataset, index: int) -> Callable[[], Tensor] | None:
    if not dataset.has_mask_rules:
        return None
    other = dataset.with_options(masks=EXACTLY_ONE)

    def masks() -> Tensor:
        found = other.masks(index)
        assert found is not None, "a dataset without masks is refused before its targets are read"
        return found

    return masks
