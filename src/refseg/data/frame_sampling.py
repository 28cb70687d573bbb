"""Numbers from an explicit generator, as Python values.

Which frames of a video make a training clip: the published rules, each a pure function of a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from refseg.data.dataset import PhraseDataset, Timeline
from refseg.errors import InvalidInput
from refseg.structures import Example


def draw_chance(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator))


def draw_between(generator: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * draw_chance(generator)


def draw_whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included; nothing is drawn where there is one alone."""
    return low if high <= low else int(torch.randint(low, high + 1, (), generator=generator))


def draw_distinct(generator: torch.Generator, total: int, count: int) -> list[int]:
    """`count` different numbers below `total`, in the order drawn."""
    return [int(number) for number in torch.randperm(total, generator=generator)[:count]]


def draw_normal(generator: torch.Generator, count: int) -> list[float]:
    """`count` numbers of the normal distribution of mean 0 and deviation 1."""
    return [float(number) for number in torch.randn(count, generator=generator)]


_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}


_NEAR = 3  # frames that a neighbour is away at most


@dataclass(frozen=True)
class Around:
    """A frame, a neighbour before and one after, and the rest drawn from far away; sorted.

    Source: ReferFormer, training on Ref-YouTube-VOS (one clip for every `frames`-th frame) and A2D (one for every
    annotated frame).
    """

    frames: Annotated[int, Field(ge=1)]
    rule: Literal["around"] = "around"
    __pydantic_config__: ClassVar = _STRICT

    def anchors(self, timeline: Timeline) -> tuple[int, ...]:
        """The frames that clips are built around."""
        return timeline.annotated or tuple(range(0, timeline.length, self.frames))

    def choose(self, timeline: Timeline, anchor: int, generator: torch.Generator) -> tuple[int, ...]:
        """The clip around `anchor`."""
        return frames_around(timeline.length, anchor, self.frames, generator)


@dataclass(frozen=True)
class DrawnFrames:
    """Frames drawn with replacement, sorted. Source: VLFormer and its video predecessor."""

    frames: Annotated[int, Field(ge=1)]
    rule: Literal["drawn"] = "drawn"
    __pydantic_config__: ClassVar = _STRICT

    def anchors(self, timeline: Timeline) -> tuple[int, ...]:
        """One clip for every example."""
        return (0,)

    def choose(self, timeline: Timeline, anchor: int, generator: torch.Generator) -> tuple[int, ...]:
        """Annotated frames, any of them as often as it is drawn."""
        pool = timeline.annotated or tuple(range(timeline.length))
        return tuple(sorted(pool[draw_whole(generator, 0, len(pool) - 1)] for _ in range(self.frames)))


@dataclass(frozen=True)
class Window:
    """Consecutive frames around every annotated one; edge frames repeat. Source: evaluation on A2D and JHMDB."""

    frames: Annotated[int, Field(ge=1)]
    rule: Literal["window"] = "window"
    __pydantic_config__: ClassVar = _STRICT

    def anchors(self, timeline: Timeline) -> tuple[int, ...]:
        """Every annotated frame."""
        return timeline.annotated or tuple(range(timeline.length))

    def choose(self, timeline: Timeline, anchor: int, generator: torch.Generator) -> tuple[int, ...]:
        """The window; nothing is drawn."""
        return window(timeline.length, anchor, self.frames)


RULES = (Around, DrawnFrames, Window)


Sampling = Around | DrawnFrames | Window


def frames_around(length: int, anchor: int, count: int, generator: torch.Generator) -> tuple[int, ...]:
    """Sorted frames of a clip of `count` around `anchor`; repeats are possible in short videos.

    One frame is `anchor` alone. Else: `anchor`, one 1 to 3 frames before and one after it (within the video), and
    `count` - 3 more without replacement from below the smallest and from the largest of these on; from all frames where
    those are no more than needed; and where the video is shorter still, all of it and a draw.
    """
    if not 0 <= anchor < length:
        raise InvalidInput(f"frame {anchor} lies outside a video of {length} frames")
    if count == 1:
        return (anchor,)
    before, after = draw_whole(generator, 1, _NEAR), draw_whole(generator, 1, _NEAR)
    near = (anchor, max(0, anchor - before), min(length - 1, anchor + after))
    wanted = count - len(near)
    if wanted < 0:
        return tuple(sorted(near[:count]))
    far = [*range(min(near)), *range(max(near), length)]
    return tuple(sorted((*near, *_more(far, length, wanted, generator))))


def _more(far: Sequence[int], length: int, wanted: int, generator: torch.Generator) -> list[int]:
    if wanted == 0:
        return []
    if len(far) > wanted:
        return [far[i] for i in draw_distinct(generator, len(far), wanted)]
    often, rest = divmod(wanted, length)
    return [*range(length)] * often + draw_distinct(generator, length, rest)


def window(length: int, centre: int, count: int) -> tuple[int, ...]:
    """`count` consecutive frames from `centre` - count // 2 on, clamped to the video."""
    if not 0 <= centre < length:
        raise InvalidInput(f"frame {centre} lies outside a video of {length} frames")
    first = centre - count // 2
    return tuple(min(max(number, 0), length - 1) for number in range(first, first + count))


class SampledClips:
    """The training clips of a data set: one for every anchor of every example, its frames drawn when it is asked for."""

    def __init__(self, examples: PhraseDataset, sampling: Sampling) -> None:
        self.examples, self.sampling = examples, sampling
        self._places = [
            (index, anchor)
            for index in range(len(examples))
            for anchor in sampling.anchors(examples.timeline(index))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def example_of(self, number: int) -> int:
        """The example that clip `number` is taken from."""
        return self._places[number][0]

    def draw(self, number: int, generator: torch.Generator) -> Example:
        """Clip `number`, its other frames drawn from `generator`."""
        index, anchor = self._places[number]
        frames = self.sampling.choose(self.examples.timeline(index), anchor, generator)
        return self.examples.example(index, frames)


def pick_frames(example: Example, frames: Sequence[int]) -> Example:
    """The example with these of its frames, in this order; frames with masks keep theirs, each at its first place.

    Raises:
        InvalidInput: if none of the frames has masks.
    """
    annotated = (
        list(range(len(example.frames))) if example.target_frames is None else example.target_frames.tolist()
    )
    is_sparse = example.target_frames is not None
    places = [p for p, n in enumerate(frames) if n in annotated and not (is_sparse and n in frames[:p])]
    if not places:
        raise InvalidInput(f"none of the frames {list(frames)} of {example.name} has masks")
    rows = [annotated.index(frames[place]) for place in places]
    things, names = example.things, example.frame_names
    return replace(
        example,
        frames=example.frames[list(frames)],
        frame_names=None if names is None else tuple(names[i] for i in frames),
        masks=None if example.masks is None else example.masks[:, rows],
        target_frames=torch.tensor(places) if is_sparse else None,
        boxes=None if example.boxes is None else example.boxes[:, rows],
        outlines=None
        if example.outlines is None
        else tuple(tuple(row[i] for i in rows) for row in example.outlines),
        things=None if things is None else replace(things, ids=things.ids[list(frames)]),
    )
