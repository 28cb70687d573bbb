"""One canvas for the batches that several processes compute at the same time.

A batch is padded to its largest example. One process would pad to the largest of all; what the padding holds enters some
losses, so the processes do the same. It costs no time: in every step the others wait for the largest canvas anyway.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from refseg import distributed
from refseg.framing import FrameSpec
from refseg.structures import Batch, Clips, Targets

_SQUARE = ("stretch", "letterbox")  # fits whose canvas does not depend on the example


def on_one_canvas(batch: Batch, frame: FrameSpec) -> Batch:
    """The batch, padded right and at the bottom to the largest canvas of all processes; all of them ask together."""
    if distributed.world_size() == 1 or frame.fit in _SQUARE:
        return batch
    height, width = batch.clips.pixels.shape[-2:]
    wanted = distributed.largest(torch.tensor([height, width], device=batch.clips.pixels.device)).tolist()
    below, right = wanted[0] - height, wanted[1] - width
    if not below and not right:
        return batch
    return Batch(
        _enlarged_clips(batch.clips, below, right, frame.fill),
        tuple(replace(placement, canvas=(wanted[0], wanted[1])) for placement in batch.placements),
        batch.phrases,
        batch.clip_of_phrase,
        None if batch.targets is None else _enlarged_targets(batch.targets, below, right),
    )


def _enlarged_clips(clips: Clips, below: int, right: int, fill: float) -> Clips:
    return replace(
        clips, pixels=_padded(clips.pixels, below, right, fill), valid=_padded(clips.valid, below, right)
    )


def _enlarged_targets(targets: Targets, below: int, right: int) -> Targets:
    things = targets.things
    if things is not None:
        things = tuple(replace(each, ids=_padded(each.ids, below, right)) for each in things)
    return replace(targets, masks=_padded(targets.masks, below, right), things=things)


def _padded(values: Tensor, below: int, right: int, fill: float = 0.0) -> Tensor:
    return functional.pad(values, (0, right, 0, below), value=fill)
