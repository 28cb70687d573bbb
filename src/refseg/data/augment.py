"""Examples varied: Example to Example, pixels, masks and words together, drawn from an explicit generator."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from refseg.errors import InvalidInput
from refseg.structures import Example, Size

# Words that hold a side, as whole words or before a hyphen or an ending: left, leftmost, left-hand, lefthand.
_SIDE = re.compile(r"\b(left|right)(?=(most|er|wards?|hand(ed)?|side|-\w+)?\b)", re.IGNORECASE)
# Where the same letters say no side.
_NO_SIDE = re.compile(
    r"\bleft (?:over|overs|behind|alone|out)\b|\bleft-over|\ball right\b|\balright\b|\bright (?:now|away|angle|angled|here|there|before|after"
    r"|next|beside|behind|under|above|below|in front)\b|\bright-(?:angled?|away)\b|\bhas left\b|\bhave left\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Augmentation:
    """How an example is varied; the default leaves it as it is."""

    flip: float = 0.0  # probability of mirroring
    scale: tuple[float, float] | None = None  # range of the factor by which the frames are resized
    crop: float = 0.0  # probability of cropping
    phrases: int | None = None  # phrases kept, drawn without repeats
    frames: int | None = None  # frames kept, neighbours in time

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """A variation of `example`; the example itself is not changed."""
        if self.phrases is not None:
            example = choose_phrases(example, self.phrases, generator)
        if self.frames is not None:
            example = choose_frames(example, self.frames, generator)
        if self.flip and _chance(generator) < self.flip:
            example = mirror(example)
        if self.scale is not None:
            low, high = self.scale
            example = rescale(example, low + (high - low) * _chance(generator))
        if self.crop and _chance(generator) < self.crop:
            example = random_crop(example, generator)
        return example


def mirror(example: Example) -> Example:
    """The example seen in a mirror: frames and masks flipped, left and right exchanged in the phrases."""
    things = example.things
    return replace(
        example,
        frames=example.frames.flip(-1),
        masks=None if example.masks is None else example.masks.flip(-1),
        phrases=tuple(map(swap_sides, example.phrases)),
        things=None if things is None else replace(things, ids=things.ids.flip(-1)),
    )


def swap_sides(phrase: str) -> str:
    """The phrase for the mirrored picture: left becomes right, "leftmost" becomes "rightmost", and back.

    Words that hold the letters and mean no side ("left over", "all right", "right behind") stay.
    """
    kept = [match.span() for match in _NO_SIDE.finditer(phrase)]

    def exchange(match: re.Match[str]) -> str:
        if any(start <= match.start() < end for start, end in kept):
            return match.group()
        other = "right" if match.group().lower() == "left" else "left"
        if match.group().isupper():
            return other.upper()
        return other.capitalize() if match.group()[0].isupper() else other

    return _SIDE.sub(exchange, phrase)


def rescale(example: Example, factor: float) -> Example:
    """The example with frames `factor` times as large (antialiased) and masks with them (nearest)."""
    height, width = example.frames.shape[-2:]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size == (height, width):
        return example
    frames = functional.interpolate(example.frames, size, mode="bilinear", antialias=True)
    things = example.things
    return replace(
        example,
        frames=frames,
        masks=None if example.masks is None else _nearest(example.masks, size).bool(),
        things=None if things is None else replace(things, ids=_nearest(things.ids, size)),
    )


def crop(example: Example, top: int, left: int, size: Size) -> Example:
    """The part of the example from (top, left) on."""
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    things = example.things
    return replace(
        example,
        frames=example.frames[..., rows, columns],
        masks=None if example.masks is None else example.masks[..., rows, columns],
        things=None if things is None else replace(things, ids=things.ids[..., rows, columns]),
    )


def random_crop(example: Example, generator: torch.Generator, *, least: float = 0.6) -> Example:
    """A random part with sides of at least `least` of the whole, in which every visible object is still seen whole.

    A crop that cuts an object away would make its phrase false, and one that cuts what a phrase compares with would
    make it doubtful; with `least` above one half, relations mostly survive.
    """
    height, width = example.frames.shape[-2:]
    top, bottom, left, right = _occupied(example.masks, (height, width))
    tall = _between(generator, max(round(height * least), bottom - top), height)
    wide = _between(generator, max(round(width * least), right - left), width)
    first = _between(generator, max(0, bottom - tall), min(top, height - tall))
    start = _between(generator, max(0, right - wide), min(left, width - wide))
    return crop(example, first, start, (tall, wide))


def choose_phrases(example: Example, count: int, generator: torch.Generator) -> Example:
    """The example with `count` of its phrases, drawn without repeats, in their order; all, where it has no more."""
    if len(example.phrases) <= count:
        return example
    drawn = torch.randperm(len(example.phrases), generator=generator)[:count].sort().values
    numbers = drawn.tolist()
    registers = example.registers
    return replace(
        example,
        phrases=tuple(example.phrases[i] for i in numbers),
        masks=None if example.masks is None else example.masks[drawn],
        labels=None if example.labels is None else example.labels[drawn],
        registers=None if registers is None else tuple(registers[i] for i in numbers),
    )


def choose_frames(example: Example, count: int, generator: torch.Generator) -> Example:
    """The example with `count` of its frames that have masks, neighbours in time from a drawn first one.

    Raises:
        InvalidInput: if it has fewer.
    """
    annotated = example.target_frames
    if annotated is None:
        annotated = torch.arange(len(example.frames))
    if len(annotated) < count:
        raise InvalidInput(
            f"{example.name} has {len(annotated)} frames with masks, and {count} were asked for; lower data.frames"
        )
    first = _between(generator, 0, len(annotated) - count)
    chosen = annotated[first : first + count]
    things = example.things
    return replace(
        example,
        frames=example.frames[chosen],
        masks=None if example.masks is None else example.masks[:, first : first + count],
        target_frames=None,
        things=None if things is None else replace(things, ids=things.ids[chosen]),
    )


def _occupied(masks: Tensor | None, size: Size) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of all that is on some mask; the middle pixel where nothing is."""
    if masks is None or not bool(masks.any()):
        return size[0] // 2, size[0] // 2 + 1, size[1] // 2, size[1] // 2 + 1
    anything = masks.flatten(0, -3).any(0)
    rows, columns = anything.any(1).nonzero().flatten(), anything.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _nearest(maps: Tensor, size: Size) -> Tensor:
    flat = maps.flatten(0, -3)[:, None].float()
    resized = functional.interpolate(flat, size, mode="nearest-exact")[:, 0]
    return resized.unflatten(0, maps.shape[:-2]).to(maps.dtype)


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _between(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low if high <= low else int(torch.randint(low, high + 1, (), generator=generator))
