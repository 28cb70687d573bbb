"""Augmentation as plain data: a closed set of steps, each a pure function of an example and a generator.

A recipe lists steps in order, `{step = "flip", probability = 0.5}`; what each does to pixels, masks, boxes and words is in
augment.py and colour.py. A clip is varied as one: only `distort` draws anew for every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from refseg.data.augment import geometric, photometric
from refseg.data.augment.geometric import MaskRule, size_of
from refseg.data.augment.photometric import Distortion
from refseg.data.augment.pseudo_clip import pseudo_clip
from refseg.data.frame_sampling import draw_between, draw_chance, draw_distinct, draw_whole, pick_frames
from refseg.errors import InvalidInput
from refseg.framing import Rounding
from refseg.structures import Example, Size

Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrored, with left and right exchanged in the phrases."""

    probability: Share = 0.5
    step: Literal["flip"] = "flip"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example mirrored, or as it is."""
        return geometric.mirror(example) if draw_chance(generator) < self.probability else example


@dataclass(frozen=True, kw_only=True)
class Resize:
    """The short side becomes one of `short`, drawn evenly, the long side at most `longest`."""

    short: Annotated[tuple[Pixels, ...], Field(min_length=1)]
    longest: Pixels | None = None
    rounding: Rounding = "down"
    masks: MaskRule = "centre"
    step: Literal["resize"] = "resize"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example at one of the sizes."""
        short = self.short[draw_whole(generator, 0, len(self.short) - 1)]
        return geometric.resize(
            example, short, longest=self.longest, rounding=self.rounding, masks=self.masks
        )


@dataclass(frozen=True, kw_only=True)
class Rescale:
    """Resized by a factor between `low` and `high`."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    step: Literal["rescale"] = "rescale"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example at another size."""
        return geometric.rescale(example, draw_between(generator, self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A random part with sides from `least` to `most` pixels, or what there is; it may cut objects away."""

    least: Pixels
    most: Pixels
    step: Literal["crop"] = "crop"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """A part of the example."""
        height, width = size_of(example)
        wide = draw_whole(generator, min(self.least, width), min(self.most, width))
        tall = draw_whole(generator, min(self.least, height), min(self.most, height))
        top, left = draw_whole(generator, 0, height - tall), draw_whole(generator, 0, width - wide)
        return geometric.crop(example, top, left, (tall, wide))


@dataclass(frozen=True, kw_only=True)
class CropAround:
    """A random part with sides of at least `least` of the whole, in which every visible object is still seen whole.

    A crop that cuts an object away would make its phrase false, and one that cuts what a phrase compares with would
    make it doubtful; with `least` above one half, relations mostly survive.
    """

    probability: Share = 1.0
    least: Share = 0.6
    step: Literal["crop_around"] = "crop_around"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """A part of the example that shows every object whole."""
        if draw_chance(generator) >= self.probability:
            return example
        height, width = size_of(example)
        top, bottom, left, right = _occupied(example.masks, (height, width))
        tall = draw_whole(generator, max(round(height * self.least), bottom - top), height)
        wide = draw_whole(generator, max(round(width * self.least), right - left), width)
        first = draw_whole(generator, max(0, bottom - tall), min(top, height - tall))
        start = draw_whole(generator, max(0, right - wide), min(left, width - wide))
        return geometric.crop(example, first, start, (tall, wide))


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Turned counter-clockwise by an angle in degrees about a centre drawn in a share of width and of height."""

    degrees: Range = (-15.0, 15.0)
    centre: tuple[Share, Share] = (0.4, 0.6)
    step: Literal["rotate"] = "rotate"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example turned."""
        angle = draw_between(generator, *self.degrees)
        x, y = draw_between(generator, *self.centre), draw_between(generator, *self.centre)
        return geometric.rotate(example, angle, (x, y))


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Brightness, then contrast, then saturation times a factor drawn from its range; [1, 1] leaves one as it is."""

    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    step: Literal["colour"] = "colour"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example in other colours."""
        frames = photometric.scale_brightness(example.frames, draw_between(generator, *self.brightness))
        frames = photometric.scale_contrast(frames, draw_between(generator, *self.contrast))
        return replace(
            example, frames=photometric.scale_saturation(frames, draw_between(generator, *self.saturation))
        )


@dataclass(frozen=True, kw_only=True)
class Distort:
    """Light and colour of every frame by itself, each part with `probability`; see `colour.distort`."""

    brightness: float = 32.0
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: float = 18.0  # degrees
    probability: Share = 0.5
    wraps: bool = False  # published behaviour of ReferFormer: values beyond 0..255 wrap around
    step: Literal["distort"] = "distort"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example with every frame in other light."""
        frames = [photometric.distort(f, self.draw(generator), wraps=self.wraps) for f in example.frames]
        return replace(example, frames=torch.stack(frames))

    def draw(self, generator: torch.Generator) -> Distortion:
        """What is done to one frame."""

        def maybe(low: float, high: float, otherwise: float) -> float:
            return (
                draw_between(generator, low, high) if draw_chance(generator) < self.probability else otherwise
            )

        return Distortion(
            brightness=maybe(-self.brightness, self.brightness, 0.0),
            contrast_first=draw_chance(generator) < 0.5,
            contrast=maybe(*self.contrast, 1.0),
            saturation=maybe(*self.saturation, 1.0),
            hue=maybe(-self.hue, self.hue, 0.0),
            channels=self._channels(generator),
        )

    def _channels(self, generator: torch.Generator) -> tuple[int, int, int]:
        if draw_chance(generator) >= self.probability:
            return (0, 1, 2)
        first, second, third = draw_distinct(generator, 3, 3)
        return first, second, third


@dataclass(frozen=True, kw_only=True)
class PseudoClip:
    """A clip of `frames` made of one picture, by warps of it."""

    frames: Annotated[int, Field(ge=1)]
    step: Literal["pseudo_clip"] = "pseudo_clip"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """A clip of the example's picture."""
        return pseudo_clip(example, self.frames, generator)


@dataclass(frozen=True, kw_only=True)
class MeasureBoxes:
    """Boxes read off the masks, from first to last pixel; later steps carry them along."""

    step: Literal["measure_boxes"] = "measure_boxes"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, _: torch.Generator) -> Example:
        """The example with boxes."""
        return geometric.with_measured_boxes(example)


@dataclass(frozen=True, kw_only=True)
class CheckBoxes:
    """Objects whose box lost its area count as absent; their masks stay."""

    step: Literal["check_boxes"] = "check_boxes"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, _: torch.Generator) -> Example:
        """The example without boxes that have no area."""
        return geometric.with_checked_boxes(example)


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """Masks drawn anew from the polygons they came from, which the steps before have moved."""

    step: Literal["redraw"] = "redraw"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, _: torch.Generator) -> Example:
        """The example with sharp masks."""
        return geometric.redraw(example)


@dataclass(frozen=True, kw_only=True)
class Lower:
    """Phrases in lower case, their words one blank apart."""

    step: Literal["lower"] = "lower"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, _: torch.Generator) -> Example:
        """The example with plain phrases."""
        return replace(example, phrases=tuple(" ".join(phrase.lower().split()) for phrase in example.phrases))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several lists of steps, drawn evenly."""

    options: Annotated[tuple[tuple[Step, ...], ...], Field(min_length=1)]
    step: Literal["choice"] = "choice"
    __pydantic_config__: ClassVar = _STRICT

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """The example after one of the lists."""
        return vary(example, self.options[draw_whole(generator, 0, len(self.options) - 1)], generator)


STEPS = (
    Flip, Resize, Rescale, Crop, CropAround, Rotate, Colour, Distort, PseudoClip, MeasureBoxes, CheckBoxes, Redraw, Lower,
    Choice,
)  # fmt: skip

Step = Annotated[
    Flip
    | Resize
    | Rescale
    | Crop
    | CropAround
    | Rotate
    | Colour
    | Distort
    | PseudoClip
    | MeasureBoxes
    | CheckBoxes
    | Redraw
    | Lower
    | Choice,
    Field(discriminator="step"),
]


def vary(example: Example, steps: Sequence[Step], generator: torch.Generator) -> Example:
    """The example after all steps; the example itself is not changed."""
    for step in steps:
        example = step(example, generator)
    return example


def draw_phrases(example: Example, count: int, generator: torch.Generator) -> Example:
    """The example with `count` of its phrases, drawn without repeats, in their order; all, where it has no more."""
    if len(example.phrases) <= count:
        return example
    return geometric.choose_phrases(example, sorted(draw_distinct(generator, len(example.phrases), count)))


def draw_neighbours(example: Example, count: int, generator: torch.Generator) -> Example:
    """The example with `count` of its frames that have masks, neighbours in time from a drawn first one.

    Raises:
        InvalidInput: if it has fewer.
    """
    annotated = example.target_frames
    numbers = list(range(len(example.frames))) if annotated is None else annotated.tolist()
    if len(numbers) < count:
        raise InvalidInput(
            f"{example.name} has {len(numbers)} frames with masks, and {count} were asked for; lower data.frames"
        )
    first = draw_whole(generator, 0, len(numbers) - count)
    return replace(pick_frames(example, numbers[first : first + count]), target_frames=None)


def draw_targets(example: Example, count: int, generator: torch.Generator) -> Example:
    """The example with `count` of its annotated frames left to segment, in their order; all frames stay to be seen.

    Raises:
        InvalidInput: if it has fewer.
    """
    annotated = torch.arange(len(example.frames)) if example.target_frames is None else example.target_frames
    if len(annotated) < count:
        raise InvalidInput(
            f"{example.name} has {len(annotated)} frames with masks, and {count} were asked for; lower data.clips.targets"
        )
    kept = torch.tensor(sorted(draw_distinct(generator, len(annotated), count)))
    return replace(
        example,
        target_frames=annotated[kept],
        masks=None if example.masks is None else example.masks[:, kept],
        boxes=None if example.boxes is None else example.boxes[:, kept],
        outlines=None
        if example.outlines is None
        else tuple(tuple(row[place] for place in kept.tolist()) for row in example.outlines),
    )


def redraws(steps: Sequence[Step]) -> bool:
    """Whether some step draws masks from outlines, which the data set must then bring."""
    return any(
        isinstance(step, Redraw) or (isinstance(step, Choice) and any(map(redraws, step.options)))
        for step in steps
    )


def uses_mirrors(steps: Sequence[Step]) -> bool:
    """Whether some step may exchange left and right in a phrase."""
    return any(
        (isinstance(step, Flip) and step.probability > 0)
        or (isinstance(step, Choice) and any(map(uses_mirrors, step.options)))
        for step in steps
    )


def _occupied(masks: Tensor | None, size: Size) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of all that is on some mask; the middle pixel where nothing is."""
    if masks is None or not bool(masks.any()):
        return size[0] // 2, size[0] // 2 + 1, size[1] // 2, size[1] // 2 + 1
    anything = masks.flatten(0, -3).any(0)
    rows, columns = anything.any(1).nonzero().flatten(), anything.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
