"""Sine position codes: no parameters, computed from which cells or tokens are real.

Source: "End-to-End Object Detection with Transformers" (Carion et al., 2020), in the forms of its descendants.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
EPS = 1e-6  # keeps rows and columns without a real cell finite


def sine_1d(valid: Tensor, dim: int) -> Tensor:
    """Position codes of words: sine on even channels, cosine on odd ones.

    Shapes:
        valid: [P, L] bool.
        returns: [P, L, dim] float32.
    """
    count = valid.cumsum(-1, dtype=torch.float32)
    return _waves(_normalised(count, count[:, -1:]), dim)


def sine_2d(valid: Tensor, dim: int, *, offset: float = 0.0) -> Tensor:
    """Position codes of map cells: the first half of the channels codes the row, the second the column.

    Rows and columns are counted over real cells, shifted by `offset`, and scaled to [0, 2 pi]. The order of operations
    in float32 matters: cells of wholly padded columns give sines of huge arguments, and those reach their neighbours.

    Shapes:
        valid: [N, h, w] bool.
        returns: [N, h, w, dim] float32.
    """
    rows = valid.cumsum(1, dtype=torch.float32)
    columns = valid.cumsum(2, dtype=torch.float32)
    y = _normalised(rows + offset, rows[:, -1:, :])
    x = _normalised(columns + offset, columns[:, :, -1:])
    return torch.cat([_waves(y, dim // 2), _waves(x, dim // 2)], dim=-1)


def _normalised(position: Tensor, last: Tensor) -> Tensor:
    return position / (last + EPS) * (2 * math.pi)


def _waves(position: Tensor, dim: int) -> Tensor:
    """[...] to [..., dim]: channel pair i has the wave length TEMPERATURE^(2i / dim)."""
    pair = torch.arange(dim, device=position.device).div(2, rounding_mode="floor")
    lengths = TEMPERATURE ** (2 * pair.float() / dim)
    angles = position[..., None] / lengths
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)
