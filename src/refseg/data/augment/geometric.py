"""Words that say a side, exchanged when a picture is mirrored.

Examples moved: Example to Example, pixels, masks, boxes, outlines and words together. Nothing here is drawn at random.

Boxes that an example carries are scaled, shifted and clipped with the frames and never taken anew from masks, as DETR-like
training code does; boxes that it does not carry are its masks' own. Every operation treats all frames of a clip alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from refseg.data.formats.masks import draw_polygons
from refseg.errors import InvalidInput
from refseg.framing import Rounding, resize_frames, shortest_side
from refseg.structures import Example, Outline, Size

# As a whole word, before an ending or a hyphen, or after a place word written together: left, leftmost, left-hand,
# lefthand, lefty, leftie, topleft, bottom-right.
_SIDE = re.compile(
    r"\b(?P<before>(?:top|bottom|upper|lower|far|front|back|mid|middle|cent(?:er|re)|very)?)(?P<side>left|right)"
    r"(?=(?:most|er|ish|y|ie|ies|wards?|hand(?:ed|er)?|side|center|middle|-\w+)?\b)",
    re.IGNORECASE,
)


# Where the same letters say no side.
_NO_SIDE = re.compile(
    r"\bleft[ -]?overs?\b|\bleft (?:behind|alone|out|open|blank|empty|unattended)\b|\b(?:has|have|had|just|recently) left\b"
    r"|\ball[ -]right\b|\balright\b"
    r"|\bright (?:now|away|angles?|angled|here|there|before|after|next|beside|behind|under|above|below|in front|side up"
    r"|way up|of way)\b"
    r"|\bright-(?:angled?|away|side-up|of-way)\b|\b(?:that'?s|is that|just|not) right$",
    re.IGNORECASE,
)


def swap_sides(phrase: str) -> str:
    """The phrase for the mirrored picture: left becomes right, "leftmost" becomes "rightmost", and back.

    Words that hold the letters and mean no side ("left over", "all right", "right behind", "bright") stay.
    """
    kept = [match.span() for match in _NO_SIDE.finditer(phrase)]

    def exchange(match: re.Match[str]) -> str:
        if any(start < match.end() and match.start() < end for start, end in kept):
            return match.group()
        return match["before"] + _other(match["side"])

    return _SIDE.sub(exchange, phrase)


def _other(side: str) -> str:
    other = "right" if side.lower() == "left" else "left"
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other


MaskRule = Literal["centre", "corner"]
"""Which source pixel a mask's pixel takes: the one under its centre (Pillow), or under its first corner (torch "nearest")."""


def size_of(example: Example) -> Size:
    """(height, width) of the frames."""
    return example.frames.shape[-2], example.frames.shape[-1]


def mirror(example: Example) -> Example:
    """The example seen in a mirror: frames, masks and boxes flipped, left and right exchanged in the phrases."""
    width = size_of(example)[1]
    boxes = example.boxes
    if boxes is not None:
        left, top, right, bottom = boxes.unbind(-1)
        boxes = torch.stack([width - right, top, width - left, bottom], dim=-1)
    flipped = _move(
        example,
        frames=example.frames.flip(-1),
        boxes=boxes,
        maps=lambda maps: maps.flip(-1),
        points=lambda xy: xy * xy.new_tensor([-1, 1]) + xy.new_tensor([width, 0]),
    )
    if flipped.things is not None:
        flipped.things = replace(flipped.things, motions=None)  # what went left goes right
    return replace(flipped, phrases=tuple(map(swap_sides, example.phrases)))


def resize(
    example: Example,
    short: int,
    *,
    longest: int | None = None,
    rounding: Rounding = "down",
    masks: MaskRule = "centre",
) -> Example:
    """The example with its short side at `short`, its long side at most `longest`; pixels by Pillow's bilinear filter."""
    size = shortest_side(size_of(example), short, longest, rounding)
    if size == size_of(example):
        return example
    frames = resize_frames(example.frames, size, "antialias").to(torch.uint8)
    return _resize_all(example, frames, masks)


def rescale(example: Example, factor: float) -> Example:
    """The example with frames `factor` times as large (antialiased) and masks with them (nearest)."""
    height, width = size_of(example)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size == (height, width):
        return example
    frames = functional.interpolate(example.frames, size, mode="bilinear", antialias=True)
    return _resize_all(example, frames, "centre")


def _resize_all(example: Example, frames: Tensor, rule: MaskRule) -> Example:
    size = (frames.shape[-2], frames.shape[-1])
    factors = (size[1] / example.frames.shape[-1], size[0] / example.frames.shape[-2])  # x, y
    boxes = example.boxes
    return _move(
        example,
        frames=frames,
        boxes=None if boxes is None else boxes * boxes.new_tensor(factors * 2),
        maps=lambda maps: _nearest(maps, size, rule),
        points=lambda xy: xy * xy.new_tensor(factors),
    )


def crop(example: Example, top: int, left: int, size: Size) -> Example:
    """The part of the example from (top, left) on; boxes are clipped to it.

    Raises:
        InvalidInput: if it reaches beyond the frames.
    """
    height, width = size
    if min(top, left) < 0 or top + height > size_of(example)[0] or left + width > size_of(example)[1]:
        raise InvalidInput(
            f"a crop of {height}x{width} at ({top}, {left}) reaches beyond frames of {size_of(example)}"
        )
    rows, columns = slice(top, top + height), slice(left, left + width)
    boxes = example.boxes
    if boxes is not None:
        shifted = boxes - boxes.new_tensor([left, top, left, top])
        boxes = shifted.clamp(min=0).minimum(shifted.new_tensor([width, height, width, height]))
    return _move(
        example,
        frames=example.frames[..., rows, columns],
        boxes=boxes,
        maps=lambda maps: maps[..., rows, columns],
        points=lambda xy: xy - xy.new_tensor([left, top]),
    )


def rotate(example: Example, degrees: float, centre: tuple[float, float]) -> Example:
    """The example turned counter-clockwise about `centre` (shares of width and height); its size stays, outside is black.

    Pixels and masks are warped about the centre less half a pixel, outlines as coordinates about the centre itself.
    Carried boxes are dropped: a turned box is no box.

    Source: the rotation of Detectron2.
    """
    height, width = size_of(example)
    middle = (width * centre[0], height * centre[1])
    pixels = cv2.getRotationMatrix2D((middle[0] - 0.5, middle[1] - 0.5), degrees, 1)
    points = cv2.getRotationMatrix2D(middle, degrees, 1)
    return warp(
        example, lambda image, flags: cv2.warpAffine(image, pixels, (width, height), flags=flags), points
    )


def warp(
    example: Example, apply: Callable[[np.ndarray, int], np.ndarray], points: np.ndarray | None = None
) -> Example:
    """The example warped by an OpenCV call on one picture: frames bilinear, masks nearest, boxes and old outlines gone.

    Arguments:
        apply: (picture [H, W] or [H, W, 3] uint8, interpolation flag) to the warped picture of the same size.
        points: the affine matrix [2, 3] that moves outlines.
    """

    def moved(maps: Tensor) -> Tensor:
        flat = maps.flatten(0, -3).to(torch.uint8).numpy()
        warped = torch.stack([torch.from_numpy(apply(each, cv2.INTER_NEAREST)) for each in flat])
        return warped.unflatten(0, maps.shape[:-2]).to(maps.dtype)

    frames = [
        apply(np.ascontiguousarray(f.permute(1, 2, 0).numpy()), cv2.INTER_LINEAR) for f in example.frames
    ]
    matrix = None if points is None else torch.from_numpy(points)
    return _move(
        replace(example, outlines=None if matrix is None else example.outlines),
        frames=torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(),
        boxes=None,
        maps=moved,
        points=lambda xy: xy if matrix is None else xy @ matrix[:, :2].T + matrix[:, 2],
    )


def redraw(example: Example) -> Example:
    """The example with masks drawn anew from the outlines it still has, sharper than masks that were resized and turned.

    Masks that came without outlines (run-length codes) stay as they are.

    Raises:
        InvalidInput: if the data set brings no outlines at all.
    """
    if example.outlines is None or example.masks is None:
        raise InvalidInput(
            f"{example.name} brings no polygons to draw its masks from; leave the step redraw out, "
            "or read a set of polygons with options = {outlines = true}"
        )
    masks, size = example.masks.clone(), size_of(example)
    for row, outlines in zip(masks, example.outlines, strict=True):
        for mask, outline in zip(row, outlines, strict=True):
            if outline is not None:
                mask.copy_(draw_polygons([points.flatten().tolist() for points in outline], size))
    return replace(example, masks=masks)


def with_measured_boxes(example: Example) -> Example:
    """The example with boxes read off its masks, from the first to the last pixel of the object, both included.

    Published behaviour of the video loaders: a box one pixel wide has no area.
    """
    assert example.masks is not None
    spans = []
    for occupied in (example.masks.any(-2), example.masks.any(-1)):  # columns, rows
        numbers = occupied.to(torch.uint8)
        spans.append((numbers.argmax(-1), occupied.shape[-1] - 1 - numbers.flip(-1).argmax(-1)))
    (left, right), (top, bottom) = spans
    visible = example.masks.flatten(-2).any(-1)
    boxes = torch.stack([left, top, right, bottom], dim=-1).float() * visible[..., None]
    return replace(example, boxes=boxes)


def with_checked_boxes(example: Example) -> Example:
    """The example in which boxes that lost their area are zeros: the object counts as absent, its mask stays."""
    boxes = example.boxes
    return example if boxes is None else replace(example, boxes=boxes * have_area(boxes)[..., None])


def have_area(boxes: Tensor) -> Tensor:
    """Which boxes [..., 4] xyxy show something."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def is_seen(example: Example) -> bool:
    """Whether any object of the example shows in any frame."""
    if example.boxes is not None:
        return bool(have_area(example.boxes).any())
    return example.masks is None or bool(example.masks.any())


def choose_phrases(example: Example, rows: Sequence[int]) -> Example:
    """The example with the phrases of these rows alone."""
    index = torch.tensor(rows, dtype=torch.int64)
    outlines = example.outlines

    def named(texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if texts is None else tuple(texts[i] for i in rows)

    return replace(
        example,
        phrases=tuple(example.phrases[i] for i in rows),
        masks=None if example.masks is None else example.masks[index],
        labels=None if example.labels is None else example.labels[index],
        registers=named(example.registers),
        ids=named(example.ids),
        objects=named(example.objects),
        no_target=None if example.no_target is None else example.no_target[index],
        boxes=None if example.boxes is None else example.boxes[index],
        outlines=None if outlines is None else tuple(outlines[i] for i in rows),
    )


def _move(
    example: Example,
    *,
    frames: Tensor,
    boxes: Tensor | None,
    maps: Callable[[Tensor], Tensor],
    points: Callable[[Tensor], Tensor],
) -> Example:
    """The example with these frames and boxes, masks and things changed by `maps`, outlines [N, 2] by `points`."""
    things, outlines = example.things, example.outlines
    return replace(
        example,
        frames=frames,
        boxes=boxes,
        masks=None if example.masks is None else maps(example.masks),
        things=None if things is None else replace(things, ids=maps(things.ids)),
        outlines=None
        if outlines is None
        else tuple(tuple(_each(o, points) for o in row) for row in outlines),
    )


def _each(outline: Outline | None, points: Callable[[Tensor], Tensor]) -> Outline | None:
    return None if outline is None else tuple(points(polygon) for polygon in outline)


def _nearest(maps: Tensor, size: Size, rule: MaskRule) -> Tensor:
    flat = maps.flatten(0, -3)[:, None].float()
    mode = "nearest-exact" if rule == "centre" else "nearest"
    resized = functional.interpolate(flat, size, mode=mode)[:, 0]
    return resized.unflatten(0, maps.shape[:-2]).to(maps.dtype)
