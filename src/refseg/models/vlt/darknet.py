"""Darknet-53 and the three pairs of convolutions that a YOLOv3 detector puts on its coarsest map.

Source: "YOLOv3: An Incremental Improvement" (Redmon & Farhadi, 2018), as VLT uses it.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from refseg.models.vlt.blocks import ConvNorm, DownConvNorm

BLOCKS = (1, 2, 8, 8, 4)  # residual blocks of the five stages
NUM_FROZEN_EXTRA = 4  # of the six extra convolutions, the first two pairs are frozen with the backbone


class Residual(nn.Module):
    """A map plus two convolutions of it; no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = ConvNorm(channels, channels // 2, 1)
        self.wide = ConvNorm(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        return x + self.wide(self.narrow(x))


class Stage(nn.Module):
    """A halving convolution and residual blocks."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.down = DownConvNorm(channels // 2, channels)
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C / 2, h, w] to [N, C, h / 2, w / 2]."""
        return self.blocks(self.down(x))


class Darknet(nn.Module):
    """The backbone: 58 convolutions."""

    layer_order: ClassVar[tuple[str, ...]] = (r"stem\.", r"stages\.(\d+)\.", r"extra\.")
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width, 3)
        self.stages = nn.ModuleList(Stage(2 ** (k + 1) * width, count) for k, count in enumerate(BLOCKS))
        self.extra = nn.Sequential(*_pairs(32 * width))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [N, 3, S, S] in [0, 1] to maps of strides 8, 16 and 32 with 8, 16 and 32 widths of channels."""
        current = self.stem(pixels)
        maps = []
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps[2], maps[3], self.extra(maps[4])

    def frozen_parts(self) -> list[nn.Module]:
        """Convolutions 1 to 56, which the published training leaves as the detector has them."""
        return [self.stem, self.stages, self.extra[:NUM_FROZEN_EXTRA]]


def _pairs(channels: int) -> list[ConvNorm]:
    sizes = [(channels, channels // 2, 1), (channels // 2, channels, 3)] * 3
    return [ConvNorm(*size) for size in sizes]
