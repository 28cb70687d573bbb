"""The nouns of refseg: what data sets store, what a network sees, what it says, what a user gets.

An image is a clip of one frame; no tensor drops its time axis. Bool tensors named `valid` are True on real data.
Letters: P phrases, B clips, T frames, T' frames to segment, Q candidate queries, K classes, L tokens, (H, W) source or
canvas, (h, w) features.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Size = tuple[int, int]
"""(height, width) in pixels."""

Outline = tuple[Tensor, ...]
"""The polygons of one mask, each [N, 2] float64 points (x, y) in pixels."""


class _Movable:
    """Dataclass of tensors that can be moved as one value."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same value on `device`, with floating-point tensors in `dtype`."""
        moved = copy(self)
        for name in self.__dataclass_fields__:
            setattr(moved, name, _move(getattr(self, name), device, dtype))
        return moved


def _move(value: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(
            device=device, dtype=dtype if dtype is not None and value.is_floating_point() else None
        )
    if isinstance(value, _Movable):
        return value.to(device, dtype)
    if isinstance(value, tuple):
        return tuple(_move(item, device, dtype) for item in value)
    return value


@dataclass(slots=True)
class Things(_Movable):
    """What stands where in a clip, for worlds that know it (scenes); the food of a naming objective."""

    ids: Tensor  # [T, H, W] uint8; 0 = background, n = thing n
    nouns: Tensor  # [N] int64 index into the world's list of nouns; entry n - 1 belongs to thing n
    colours: Tensor  # [N] int64 index into the world's list of colours; -1 = has no colour word
    motions: Tensor | None = None  # [N] int64 index into the world's list of motions; None in pictures


@dataclass(slots=True)
class Example:
    """One annotated clip, as stored."""

    name: str
    frames: Tensor  # [T, 3, H, W] uint8 RGB, source size
    phrases: tuple[str, ...]  # P of them
    masks: Tensor | None = None  # [P, T', H, W] bool; an empty mask is a phrase that nothing answers to
    target_frames: Tensor | None = None  # [T'] int64; None = all frames
    labels: Tensor | None = None  # [P] int64 object category
    registers: tuple[str, ...] | None = None  # P names of the kind of phrase, for tables by kind
    things: Things | None = None
    boxes: Tensor | None = None  # [P, T', 4] float32 xyxy in pixels of these frames; None = the masks' own
    outlines: tuple[tuple[Outline | None, ...], ...] | None = None  # P rows of T': what masks were drawn from
    ids: tuple[str, ...] | None = None  # P: sentence, expression or sample, as the data set numbers it
    objects: tuple[str, ...] | None = None  # P: reference or object, as the data set numbers it
    no_target: Tensor | None = None  # [P] bool, True = the data set says that nothing answers
    frame_names: tuple[str, ...] | None = None  # T, as evaluation servers spell them

    def __post_init__(self) -> None:
        assert self.frames.ndim == 4 and self.frames.shape[1] == 3, (
            f"frames are [T, 3, H, W], not {self.frames.shape}"
        )
        if self.masks is not None:
            times = len(self.frames) if self.target_frames is None else len(self.target_frames)
            wanted = (len(self.phrases), times, *self.frames.shape[-2:])
            assert tuple(self.masks.shape) == wanted, f"masks are {wanted}, not {tuple(self.masks.shape)}"
            assert self.boxes is None or self.boxes.shape == (*wanted[:2], 4), f"boxes are {self.boxes.shape}"


@dataclass(slots=True, frozen=True)
class Placement:
    """Where a source frame lies on a canvas."""

    source: Size  # size of the stored frame
    content: Size  # size after resizing, before padding
    offset: Size  # (top, left) of the content on the canvas
    canvas: Size  # size of the tensor the network sees; collating may enlarge it


@dataclass(slots=True)
class Clips(_Movable):
    """What a network sees of B clips."""

    pixels: Tensor  # [B, T, 3, H, W] float32, normalised; the canvas
    valid: Tensor  # [B, H, W] bool, True where the content lies
    content: Tensor  # [B, 2] int64, content (height, width)
    target_frames: Tensor | None = None  # [B, T'] int64; None = all frames


@dataclass(slots=True)
class TextTokens(_Movable):
    """P phrases as a tower reads them."""

    values: Tensor  # [P, L] int64 ids, or [P, L, D] float32 word vectors
    valid: Tensor  # [P, L] bool


@dataclass(slots=True)
class VisualFeatures(_Movable):
    """All that pixels alone can tell."""

    maps: tuple[Tensor, ...]  # each [B, T', C, h, w], finest first
    valid: Tensor  # [B, H, W]
    content: Tensor  # [B, 2]

    def rows(self, index: Tensor) -> VisualFeatures:
        """The features of the clips `index` [P] names, so that row p belongs to phrase p.

        Rows of a single clip are views of one memory: read them, never write to them.
        """
        count, each = len(self.valid), len(index) // len(self.valid)
        evenly = torch.arange(count, device=index.device).repeat_interleave(each)
        if len(index) == count * each and bool((index == evenly).all()):
            return self._repeated(each)
        maps = tuple(level[index] for level in self.maps)
        return VisualFeatures(maps, self.valid[index], self.content[index])

    def _repeated(self, each: int) -> VisualFeatures:
        """Every row `each` times in a row; summing gradients is much faster here than after indexing."""
        if each == 1:
            return self
        maps = tuple(level[:, None].expand(-1, each, *level.shape[1:]).flatten(0, 1) for level in self.maps)
        valid, content = (part.repeat_interleave(each, 0) for part in (self.valid, self.content))
        return VisualFeatures(maps, valid, content)


@dataclass(slots=True)
class TextFeatures(_Movable):
    """What a text tower tells of P phrases."""

    tokens: Tensor  # [P, L, D]
    valid: Tensor  # [P, L]
    sentence: Tensor | None = None  # [P, D]


@dataclass(slots=True)
class Targets(_Movable):
    """Ground truth on the canvas, ready for a loss."""

    masks: Tensor  # [P, T', H, W] on the canvas; bool, or in [0, 1] where a family learns from soft masks
    visible: Tensor  # [P, T'] bool, the object is in the frame
    boxes: Tensor  # [P, T', 4] cxcywh in [0, 1] of the content; zeros where not visible
    labels: Tensor  # [P] int64
    things: tuple[Things, ...] | None = None  # B of them, on the canvas


@dataclass(slots=True)
class Batch(_Movable):
    """B clips and the P phrases asked of them."""

    clips: Clips
    placements: tuple[Placement, ...]  # B
    phrases: tuple[str, ...]  # P
    clip_of_phrase: Tensor  # [P] int64
    targets: Targets | None = None


@dataclass(slots=True)
class Output(_Movable):
    """What a network says of P phrases, at its own resolution."""

    mask_logits: Tensor  # [P, Q, T', h, w]
    class_logits: Tensor | None = None  # [P, Q, T' or 1, K]
    boxes: Tensor | None = None  # [P, Q, T', 4] cxcywh in [0, 1] of the content
    earlier: tuple[Output, ...] = field(default=())  # outputs of earlier decoder layers, first layer first


@dataclass(slots=True)
class EvidenceMap(_Movable):
    """One map over the picture that tells how an answer came about."""

    title: str  # such as "query 3 looks"
    values: Tensor  # [T', h, w] from 0 up, over the whole canvas; after `Predictor.explain` at the source, one frame
    weight: float | None = None  # in [0, 1]: how much it counts, where the family has such a number
    group: str = ""  # maps of one group are drawn on one scale, and begin a row of their own


@dataclass(slots=True)
class Explanation(_Movable):
    """How the answer to one phrase came about; a family fills in what it has."""

    maps: tuple[EvidenceMap, ...] = ()
    words: tuple[tuple[str, float], ...] = ()  # words of the phrase in their order, and how much each counts
    points: Tensor | None = None  # [T', 2] (x, y) in [0, 1] of the content: where the chosen candidate looks
    boxes: Tensor | None = None  # [T', 4] cxcywh in [0, 1] of the content: that of the chosen candidate


def stack_rows(values: Sequence[Tensor], fill: float | bool = 0) -> Tensor:
    """Tensors of different sizes stacked, padded at the end of every axis with `fill`."""
    assert values, "nothing to stack"
    sizes = [max(v.shape[axis] for v in values) for axis in range(values[0].ndim)]
    stacked = values[0].new_full((len(values), *sizes), fill)
    for row, value in zip(stacked, values, strict=True):
        row[tuple(slice(0, n) for n in value.shape)] = value
    return stacked
