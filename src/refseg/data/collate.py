"""Examples to a Batch: frames placed on one canvas, masks placed alike, phrases in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec, enlarge_canvas, masks_to_canvas, place, place_frames, valid_area
from refseg.structures import Batch, Clips, Example, Placement, Size, Targets, Things


def collate(examples: Sequence[Example], spec: FrameSpec) -> Batch:
    """A batch of examples with equally many frames, on the canvas of the largest.

    Shapes:
        pixels: [B, T, 3, H, W]; smaller canvases are padded right and at the bottom with `spec.fill`.
        targets: None when the examples carry no masks.

    Raises:
        InvalidInput: if the examples differ in frames or frames to segment, or only some carry masks.
    """
    _must_agree(examples)
    placements = [place(_size(example.frames), spec) for example in examples]
    canvas = (max(p.canvas[0] for p in placements), max(p.canvas[1] for p in placements))
    pixels = _pixels(examples, placements, canvas, spec)
    enlarged = [Placement(p.source, p.content, p.offset, canvas) for p in placements]
    clips = Clips(
        pixels=pixels,
        valid=torch.stack([valid_area(placement) for placement in enlarged]),
        content=torch.tensor([placement.content for placement in enlarged]),
        target_frames=_target_frames(examples),
    )
    counts = torch.tensor([len(example.phrases) for example in examples])
    return Batch(
        clips=clips,
        placements=tuple(enlarged),
        phrases=tuple(phrase for example in examples for phrase in example.phrases),
        clip_of_phrase=torch.repeat_interleave(torch.arange(len(examples)), counts),
        targets=_targets(examples, enlarged, spec) if examples[0].masks is not None else None,
    )


def content_boxes(masks: Tensor, placement: Placement) -> tuple[Tensor, Tensor]:
    """The tight boxes of masks on the canvas and whether there is anything in them.

    Shapes:
        masks: [P, T', H, W] on the canvas, bool or soft.
        returns: [P, T', 4] cxcywh in [0, 1] of the content, zeros for an empty mask; [P, T'] bool.
    """
    columns, rows = masks.any(-2), masks.any(-1)  # [P, T', W], [P, T', H]
    visible = rows.any(-1)
    left, right = _extent(columns)
    top, bottom = _extent(rows)
    (off_y, off_x), (height, width) = placement.offset, placement.content
    boxes = torch.stack(
        [
            ((left + right) / 2 - off_x) / width,
            ((top + bottom) / 2 - off_y) / height,
            (right - left) / width,
            (bottom - top) / height,
        ],
        dim=-1,
    )
    return boxes * visible[..., None], visible


def carried_boxes(example: Example) -> tuple[Tensor, Tensor]:
    """The boxes that an example brings, as shares of its frames, and which have area; zeros for the others."""
    assert example.boxes is not None
    low, high = example.boxes[..., :2], example.boxes[..., 2:]
    extent = low.new_tensor([example.frames.shape[-1], example.frames.shape[-2]])
    seen = (high > low).all(-1)
    boxes = torch.cat([(low + high) / 2 / extent, (high - low) / extent], dim=-1)
    return boxes * seen[..., None], seen


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied cell and the one after the last, as floats."""
    numbers = occupied.to(torch.uint8)  # argmax wants numbers, and returns the first of equals
    first = numbers.argmax(-1).float()
    return first, occupied.shape[-1] - numbers.flip(-1).argmax(-1).float()


def _pixels(
    examples: Sequence[Example], placements: Sequence[Placement], canvas: Size, spec: FrameSpec
) -> Tensor:
    if all(p.source == p.content == canvas for p in placements):
        # Frames that are their own canvas are copied as bytes and normalised together.
        stacked = torch.stack([example.frames for example in examples])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
        return stacked.float().sub_(mean * 255).div_(std * 255)
    placed = [place_frames(example.frames, spec) for example in examples]
    return torch.stack([enlarge_canvas(frames, where, canvas, spec.fill)[0] for frames, where in placed])


def _targets(examples: Sequence[Example], placements: Sequence[Placement], spec: FrameSpec) -> Targets:
    masks, boxes, visible, labels = [], [], [], []
    for example, placement in zip(examples, placements, strict=True):
        assert example.masks is not None
        placed = _on_canvas(example.masks, placement, spec)
        tight, seen = content_boxes(placed, placement) if example.boxes is None else carried_boxes(example)
        masks.append(placed)
        boxes.append(tight)
        visible.append(seen)
        unlabelled = torch.zeros(len(example.phrases), dtype=torch.int64)
        labels.append(unlabelled if example.labels is None else example.labels)
    return Targets(
        masks=torch.cat(masks),
        visible=torch.cat(visible),
        boxes=torch.cat(boxes),
        labels=torch.cat(labels),
        things=_things(examples, placements),
    )


def _on_canvas(masks: Tensor, placement: Placement, spec: FrameSpec) -> Tensor:
    if placement.source == placement.content == placement.canvas:
        return masks
    # The canvas may have been enlarged for the batch; `masks_to_canvas` pads to it.
    return masks_to_canvas(masks, placement, spec.filter)


def _things(examples: Sequence[Example], placements: Sequence[Placement]) -> tuple[Things, ...] | None:
    if any(example.things is None for example in examples):
        return None
    placed = []
    for example, placement in zip(examples, placements, strict=True):
        things = example.things
        assert things is not None
        placed.append(replace(things, ids=_ids_to_canvas(things.ids, placement)))
    return tuple(placed)


def _ids_to_canvas(ids: Tensor, placement: Placement) -> Tensor:
    """Id maps [T, H, W] uint8 placed like masks; padding is background."""
    if placement.source == placement.content == placement.canvas:
        return ids
    resized = functional.interpolate(ids[:, None].float(), placement.content, mode="nearest-exact")[:, 0]
    canvas = ids.new_zeros((len(ids), *placement.canvas))
    (top, left), (height, width) = placement.offset, placement.content
    canvas[:, top : top + height, left : left + width] = resized.to(ids.dtype)
    return canvas


def _target_frames(examples: Sequence[Example]) -> Tensor | None:
    chosen = [example.target_frames for example in examples]
    if all(frames is None for frames in chosen):
        return None
    return torch.stack([_all_or(frames, example) for frames, example in zip(chosen, examples, strict=True)])


def _all_or(frames: Tensor | None, example: Example) -> Tensor:
    return torch.arange(len(example.frames)) if frames is None else frames


def _size(frames: Tensor) -> Size:
    return frames.shape[-2], frames.shape[-1]


def _must_agree(examples: Sequence[Example]) -> None:
    if not examples:
        raise InvalidInput("a batch needs at least one example")
    first = examples[0]
    for example in examples[1:]:
        if len(example.frames) != len(first.frames):
            raise InvalidInput(
                f"{first.name} has {len(first.frames)} frames and {example.name} has {len(example.frames)}; "
                "a batch holds clips of equally many frames"
            )
        if _times(example) != _times(first):
            raise InvalidInput(
                f"{first.name} has {_times(first)} frames to segment and {example.name} has {_times(example)}; "
                "a batch holds clips with equally many"
            )
        if (example.masks is None) != (first.masks is None):
            raise InvalidInput(f"of {first.name} and {example.name}, only one carries masks")


def _times(example: Example) -> int:
    return len(example.frames) if example.target_frames is None else len(example.target_frames)
