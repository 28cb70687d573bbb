"""Frames onto the canvas a network sees, and masks back off it.

`place_frames` alone decides where a frame lies; `masks_to_source` alone undoes it. No other code multiplies by a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from refseg.errors import InvalidInput
from refseg.structures import Placement, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Fit = Literal["stretch", "shortest", "letterbox", "keep"]
Filter = Literal["bilinear", "antialias", "bicubic"]
Rounding = Literal["down", "half"]


@dataclass(frozen=True)
class FrameSpec:
    """How a family places frames: the rule of the content's size, the resampling filter, the normalisation.

    stretch: the content is `size` x `size`, whatever the source's shape.
    shortest: the short side becomes `size`; the long side follows, at most `longest` where that is set; padding on the
        right and at the bottom up to a multiple of `divisor`.
    letterbox: the content fits inside `size` x `size` and is centred.
    keep: the content is the source as it is, padded like shortest; for training on frames that were resized before.
    """

    fit: Fit
    size: int
    longest: int | None = None
    divisor: int = 1
    filter: Filter = "antialias"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of values in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD
    fill: float = 0.0  # value of padding, after normalisation
    rounding: Rounding = "down"  # shortest: sides that fall between two pixels; see `shortest_side`


def place(source: Size, spec: FrameSpec) -> Placement:
    """Where a frame of size `source` lies under `spec`."""
    if min(source) < 1:
        raise InvalidInput(
            f"a frame of {source[0]}x{source[1]} pixels has no area; give a picture with at least one pixel"
        )
    height, width = source
    if spec.fit == "stretch":
        square = (spec.size, spec.size)
        return Placement(source, square, (0, 0), square)
    if spec.fit == "letterbox":
        scale = min(spec.size / height, spec.size / width)
        content = (max(1, int(height * scale)), max(1, int(width * scale)))
        offset = ((spec.size - content[0]) // 2, (spec.size - content[1]) // 2)
        return Placement(source, content, offset, (spec.size, spec.size))
    content = source if spec.fit == "keep" else shortest_side(source, spec.size, spec.longest, spec.rounding)
    canvas = tuple(-(-side // spec.divisor) * spec.divisor for side in content)
    return Placement(source, content, (0, 0), (canvas[0], canvas[1]))


def shortest_side(source: Size, size: int, longest: int | None, rounding: Rounding = "down") -> Size:
    """The size of `source` when its short side becomes `size`, its long side at most `longest`.

    Source: "down" is the resize rule of DETR-like training code, whose long side is truncated; "half" is that of
    Detectron2, which scales both sides and rounds each.
    """
    if rounding == "half":
        return _scaled_side(source, size, longest)
    short, long = min(source), max(source)
    if longest is not None and long / short * size > longest:
        size = round(longest * short / long)
    if size < 1 and longest is not None:
        # A line so thin that its short side rounds to nothing; the published rule would end here with an error.
        return (1, longest) if source[0] <= source[1] else (longest, 1)
    if short == size:
        return source
    grown = max(1, int(size * long / short))
    return (size, grown) if source[0] <= source[1] else (grown, size)


def _scaled_side(source: Size, size: int, longest: int | None) -> Size:
    scale = size / min(source)
    height, width = (
        (float(size), scale * source[1]) if source[0] < source[1] else (scale * source[0], float(size))
    )
    if longest is not None and max(height, width) > longest:
        scale = longest / max(height, width)
        height, width = height * scale, width * scale
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def place_frames(frames: Tensor, spec: FrameSpec) -> tuple[Tensor, Placement]:
    """Frames resized, normalised and padded onto the canvas of `spec`, and where they lie there.

    Shapes:
        frames: [T, 3, H, W] uint8 RGB.
        returns: [T, 3, h, w] float32, with (h, w) = `placement.canvas`.
    """
    assert frames.dtype == torch.uint8, f"frames are uint8, not {frames.dtype}"
    placement = place((frames.shape[-2], frames.shape[-1]), spec)
    resized = resize_frames(frames, placement.content, spec.filter)
    mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    normalised = resized.div_(255).sub_(mean).div_(std)
    return _pad(normalised, placement, spec.fill), placement


def masks_to_canvas(masks: Tensor, placement: Placement, rule: Filter = "antialias") -> Tensor:
    """Masks of source frames, placed like the frames: nearest by pixel centres as Pillow counts them; padding is background.

    Frames resized by `bicubic` have their masks resized by it too, as pictures of 0 and 255, and the values between stay:
    that is how VLT, the one system with this filter, trains.

    Shapes:
        masks: [..., H, W] bool at `placement.source`.
        returns: [..., h, w] at `placement.canvas`; bool, or for `bicubic` float32 in [0, 1].
    """
    assert tuple(masks.shape[-2:]) == placement.source, (
        f"masks of {masks.shape}, placed from {placement.source}"
    )
    if rule == "bicubic":
        return _soft_masks(masks, placement)
    rows, columns = (_nearest(old, new) for old, new in zip(placement.source, placement.content, strict=True))
    resized = masks.index_select(-2, rows.to(masks.device)).index_select(-1, columns.to(masks.device))
    return _pad(resized, placement, False)


def _nearest(old: int, new: int) -> Tensor:
    """For each of `new` pixels, the one of `old` under its centre.

    Pillow, which the published loaders use, walks from centre to centre by adding up the step in doubles; where a centre
    falls between two pixels, its rounding decides.
    """
    step = old / new
    walk = np.full(new, step)
    walk[0] = step * 0.5
    return torch.from_numpy(np.cumsum(walk).astype(np.int64))


def _soft_masks(masks: Tensor, placement: Placement) -> Tensor:
    pictures = masks.reshape(-1, *placement.source).to(torch.uint8).mul(255).numpy()
    size = placement.content[::-1]
    resized = [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in pictures]
    soft = (
        torch.from_numpy(np.stack(resized)).float().div_(255)
        if resized
        else torch.zeros(0, *placement.content)
    )
    return _pad(soft, placement, 0.0).reshape(*masks.shape[:-2], *placement.canvas)


def upsample_to_canvas(masks: Tensor, canvas: Size) -> Tensor:
    """Bilinear resize of mask logits or scores [T', h, w] to the canvas [T', H, W]."""
    if tuple(masks.shape[-2:]) == tuple(canvas):
        return masks
    return functional.interpolate(masks[None].float(), canvas, mode="bilinear", align_corners=False)[0]


def masks_to_source(masks: Tensor, placement: Placement) -> Tensor:
    """Masks of one clip, taken off the canvas and back to the size of the stored frame.

    The inverse of `place_frames`: cut out the content, resize to the source. Works on logits and on scores alike; a
    caller that thresholds does so afterwards.

    Shapes:
        masks: [T', h, w] float at `placement.canvas`.
        returns: [T', H, W] float at `placement.source`.

    Raises:
        InvalidInput: if the content does not fit inside the masks given.
    """
    (top, left), (height, width) = placement.offset, placement.content
    if top + height > masks.shape[-2] or left + width > masks.shape[-1]:
        raise InvalidInput(
            f"content {placement.content} at {placement.offset} does not fit in masks of {tuple(masks.shape[-2:])}"
        )
    content = masks[..., top : top + height, left : left + width]
    if placement.content == placement.source:
        return content
    return functional.interpolate(
        content[None].float(), placement.source, mode="bilinear", align_corners=False
    )[0]


def enlarge_canvas(
    pixels: Tensor, placement: Placement, canvas: Size, fill: float
) -> tuple[Tensor, Placement]:
    """Canvas tensor [..., h, w] padded right and at the bottom to `canvas`, with its new placement."""
    right, bottom = canvas[1] - pixels.shape[-1], canvas[0] - pixels.shape[-2]
    assert right >= 0 and bottom >= 0, (
        f"a canvas of {tuple(pixels.shape[-2:])} is not made smaller, to {canvas}"
    )
    padded = functional.pad(pixels, (0, right, 0, bottom), value=fill)
    return padded, Placement(placement.source, placement.content, placement.offset, canvas)


def valid_area(placement: Placement) -> Tensor:
    """Bool [h, w] at `placement.canvas`, True where the content lies."""
    valid = torch.zeros(placement.canvas, dtype=torch.bool)
    (top, left), (height, width) = placement.offset, placement.content
    valid[top : top + height, left : left + width] = True
    return valid


def _pad(content: Tensor, placement: Placement, fill: float | bool) -> Tensor:
    if placement.content == placement.canvas:
        return content
    canvas = content.new_full((*content.shape[:-2], *placement.canvas), fill)
    (top, left), (height, width) = placement.offset, placement.content
    canvas[..., top : top + height, left : left + width] = content
    return canvas


def resize_frames(frames: Tensor, size: Size, rule: Filter) -> Tensor:
    """Float32 [T, 3, h, w] in 0..255. `antialias` gives the very pixels of Pillow's bilinear filter, which is what the
    published loaders used; it rounds to whole numbers between its two passes and after them."""
    if tuple(frames.shape[-2:]) == size:
        return frames.float()
    if rule == "antialias":
        return torch.stack([_pillow_bilinear(frame, size) for frame in frames])
    mode = cv2.INTER_LINEAR if rule == "bilinear" else cv2.INTER_CUBIC
    resized = [
        cv2.resize(f.permute(1, 2, 0).contiguous().numpy(), size[::-1], interpolation=mode) for f in frames
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()


def _pillow_bilinear(frame: Tensor, size: Size) -> Tensor:
    from PIL import Image

    picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    resized = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
