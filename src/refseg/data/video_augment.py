"""Clips varied as video systems were trained: boxes are carried along with the frames, never taken anew from masks.

Source: the training transforms of the DETR family for video, in the numbers of ReferFormer. Published behaviour: boxes
run from the first to the last pixel of an object, both included, so one that is a single pixel wide has no area and
counts as absent; its mask stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from refseg.errors import InvalidInput
from refseg.framing import resize_frames, shortest_side
from refseg.structures import Size


@dataclass(frozen=True, slots=True)
class BoxedClip:
    """The frames of a clip with one object's mask and box in each."""

    frames: Tensor  # [T, 3, H, W] uint8 RGB
    masks: Tensor  # [T, H, W] bool
    boxes: Tensor  # [T, 4] float32 xyxy in pixels of these frames, zeros where the object is absent
    visible: Tensor  # [T] bool

    @property
    def size(self) -> Size:
        """(height, width) of the frames."""
        return self.frames.shape[-2], self.frames.shape[-1]


def boxed(frames: Tensor, masks: Tensor) -> BoxedClip:
    """A clip whose boxes are read off its masks, from the first to the last pixel of the object."""
    boxes, visible = boxes_of_masks(masks)
    return BoxedClip(frames, masks, boxes, visible)


def boxes_of_masks(masks: Tensor) -> tuple[Tensor, Tensor]:
    """First and last pixels of masks [T, H, W]: boxes [T, 4] xyxy, zeros for an empty one; and which are not [T]."""
    spans = []
    for occupied in (masks.any(-2), masks.any(-1)):  # columns, rows
        numbers = occupied.to(torch.uint8)
        spans.append((numbers.argmax(-1), occupied.shape[-1] - 1 - numbers.flip(-1).argmax(-1)))
    (left, right), (top, bottom) = spans
    visible = masks.flatten(1).any(-1)
    return torch.stack([left, top, right, bottom], dim=-1).float() * visible[:, None], visible


def mirror(clip: BoxedClip) -> BoxedClip:
    """The clip seen in a mirror; the phrase has to be turned with it, see `augment.swap_sides`."""
    width = clip.size[1]
    left, top, right, bottom = clip.boxes.unbind(-1)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=-1)
    return replace(clip, frames=clip.frames.flip(-1), masks=clip.masks.flip(-1), boxes=boxes)


def resize(clip: BoxedClip, short: int, *, longest: int | None = None) -> BoxedClip:
    """The clip with its short side at `short`, its long side at most `longest`."""
    size = shortest_side(clip.size, short, longest)
    if size == clip.size:
        return clip
    scale = clip.boxes.new_tensor([size[1] / clip.size[1], size[0] / clip.size[0]]).repeat(2)
    masks = functional.interpolate(clip.masks[:, None].float(), size, mode="nearest")[:, 0] > 0.5
    frames = resize_frames(clip.frames, size, "antialias").to(torch.uint8)
    return replace(clip, frames=frames, masks=masks, boxes=clip.boxes * scale)


def crop(clip: BoxedClip, *, top: int, left: int, size: Size) -> BoxedClip:
    """The part of the clip from (top, left) on.

    Raises:
        InvalidInput: if it reaches beyond the frames.
    """
    height, width = size
    if min(top, left) < 0 or top + height > clip.size[0] or left + width > clip.size[1]:
        raise InvalidInput(
            f"a crop of {height}x{width} at ({top}, {left}) reaches beyond frames of {clip.size}"
        )
    rows, columns = slice(top, top + height), slice(left, left + width)
    moved = clip.boxes - clip.boxes.new_tensor([left, top, left, top])
    boxes = moved.clamp(min=0).minimum(moved.new_tensor([width, height, width, height]))
    return replace(
        clip, frames=clip.frames[..., rows, columns], masks=clip.masks[..., rows, columns], boxes=boxes
    )


def check(clip: BoxedClip) -> BoxedClip:
    """The clip in which frames whose box lost its area no longer show the object; their masks stay, as published."""
    has_area = (clip.boxes[:, 2:] > clip.boxes[:, :2]).all(-1)
    return replace(clip, boxes=clip.boxes * has_area[:, None], visible=clip.visible & has_area)


def content_boxes(clip: BoxedClip) -> Tensor:
    """The boxes [T, 4] as a loss reads them: cxcywh in [0, 1] of the frames."""
    low, high = clip.boxes[:, :2], clip.boxes[:, 2:]
    extent = clip.boxes.new_tensor([clip.size[1], clip.size[0]])
    return torch.cat([(low + high) / 2 / extent, (high - low) / extent], dim=-1)
