"""The small convolutional head: four levels of features, coarsest first, to two logits a cell.

Source: section 3.4 of the paper; names of the parts as published.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.structures import Size

LEVELS = (4, 3, 2)  # names of the steps, in the order in which they run
BACKGROUND, OBJECT = 0, 1  # channels of the logits


class Head(nn.Module):
    """Upsample, join the next level, mix; three times."""

    def __init__(self, base: int, num_maps: int) -> None:
        """`base` is the width of the finest features; the two levels in the middle carry `num_maps` more channels."""
        super().__init__()
        joined = {4: 8 * base + num_maps, 3: 4 * base + num_maps, 2: 3 * base}
        hidden = 2 * base
        for level in LEVELS:
            self.add_module(f"conv1_{level}", _mix(joined[level], hidden))
            self.add_module(f"bn1_{level}", nn.BatchNorm2d(hidden))
            self.add_module(f"conv2_{level}", _mix(hidden, hidden))
            self.add_module(f"bn2_{level}", nn.BatchNorm2d(hidden))
        self.conv1_1 = nn.Conv2d(hidden, 2, 1)

    def forward(self, coarsest: Tensor, others: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Features of strides 64 and 32, 16, 8, the maps joined to them, to logits [N, 2, h, w] at stride 8."""
        hidden = coarsest
        for level, finer in zip(LEVELS, others, strict=True):
            size = (finer.shape[-2], finer.shape[-1])
            hidden = self.level(level, torch.cat([resize_maps(hidden, size), finer], dim=1))
        return cast("Tensor", self.conv1_1(hidden))

    def level(self, number: int, joined: Tensor) -> Tensor:
        """Two convolutions, each normalised and rectified."""
        for part in (1, 2):
            conv, norm = (self.get_submodule(f"{name}{part}_{number}") for name in ("conv", "bn"))
            joined = norm(conv(joined)).relu()
        return joined


def resize_maps(maps: Tensor, size: Size) -> Tensor:
    """Bilinear, corner on corner: published behaviour, here and for the logits."""
    if (maps.shape[-2], maps.shape[-1]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)


def _mix(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)
