"""Where the cells of a level lie in the content of the canvas, and which of them hold any of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Cycles across the content: from half a cycle, which tells the two ends apart, to objects of a twentieth of the side.
FREQUENCIES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
CODE_DIM = 2 * len(FREQUENCIES) + 1
STRIDES = (4, 8, 16, 32)


@dataclass(slots=True)
class Places:
    """Geometry of one level for N pictures."""

    rows: Tensor  # [N, h, CODE_DIM] codes of the vertical position
    columns: Tensor  # [N, w, CODE_DIM] codes of the horizontal position
    valid: Tensor  # [N, 1, h, w] float, 1 where the cell holds any content


def places(valid: Tensor) -> tuple[Places, ...]:
    """The geometry of strides 4, 8, 16 and 32 for canvases whose content is `valid` [N, H, W]."""
    vertical, horizontal = _coordinates(valid.any(2)), _coordinates(valid.any(1))
    filled = valid[:, None].float()
    levels = []
    for stride in STRIDES:
        levels.append(
            Places(
                _codes(functional.avg_pool1d(vertical, stride)),
                _codes(functional.avg_pool1d(horizontal, stride)),
                functional.max_pool2d(filled, stride),
            )
        )
    return tuple(levels)


def blank_padding(maps: Tensor, valid: Tensor) -> Tensor:
    """Maps [N, C, h, w] with zeros where `valid` [N, 1, h, w] is 0, in the maps' own precision."""
    return maps * valid.to(maps.dtype)


def _coordinates(holds_content: Tensor) -> Tensor:
    """Centres of the pixels along one axis [N, S], 0 and 1 being the ends of the content (one run of True)."""
    pixels = torch.arange(holds_content.shape[1], device=holds_content.device, dtype=torch.float32)
    first = holds_content.float().argmax(1, keepdim=True)
    return (pixels - first + 0.5) / holds_content.sum(1, keepdim=True)


def _codes(coordinates: Tensor) -> Tensor:
    """[N, S] to [N, S, CODE_DIM]: the coordinate around the middle, and sines and cosines of it."""
    angles = coordinates[..., None] * (2 * math.pi * coordinates.new_tensor(FREQUENCIES))
    return torch.cat((2 * coordinates[..., None] - 1, angles.sin(), angles.cos()), dim=-1)
