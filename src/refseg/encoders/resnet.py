"""ResNet-50 and ResNet-101 with frozen normalisation: the maps of all four stages.

Source: "Deep Residual Learning for Image Recognition" (He et al., 2016), with the stride in the 3x3 convolution, as
torchvision and detectron2 ship it. Which parts are trained is a matter of each family's parameter rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.norm import ConvFrozenNorm


class Bottleneck(nn.Module):
    """Three convolutions (1x1, 3x3, 1x1) around which the input is added again."""

    def __init__(
        self, channels: int, width: int, out_channels: int, *, stride: int, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = ConvFrozenNorm(channels, width, 1)
        self.conv2 = ConvFrozenNorm(width, width, 3, stride=stride, dilation=dilation)
        self.conv3 = ConvFrozenNorm(width, out_channels, 1)
        needs_shortcut = stride != 1 or channels != out_channels
        self.shortcut = (
            ConvFrozenNorm(channels, out_channels, 1, stride=stride) if needs_shortcut else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', ceil(h / stride), ceil(w / stride)]."""
        hidden = functional.relu(self.conv1(x), inplace=True)
        hidden = functional.relu(self.conv2(hidden), inplace=True)
        return functional.relu(self.conv3(hidden).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """A stem and four stages of bottlenecks; stage k has strides 4 * 2^k.

    With `is_dilated` the last stage keeps the resolution of the one before, and all its blocks but the first look twice as
    far (torchvision's `replace_stride_with_dilation` of the last stage).
    """

    layer_order: ClassVar[tuple[str, ...]] = (r"stem\.", r"stages\.(\d+)\.")
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        *,
        stem_width: int = 64,
        bottleneck_width: int = 64,
        stage_width: int = 256,
        is_dilated: bool = False,
    ) -> None:
        super().__init__()
        self.stem = ConvFrozenNorm(3, stem_width, 7, stride=2)
        self.out_channels = tuple(stage_width * 2**k for k in range(len(blocks)))
        incoming = (stem_width, *self.out_channels[:-1])
        last = len(blocks) - 1
        self.stages = nn.ModuleList(
            _stage(
                count,
                incoming[k],
                bottleneck_width * 2**k,
                self.out_channels[k],
                stride=1 if k == 0 or (is_dilated and k == last) else 2,
                dilation=2 if is_dilated and k == last else 1,
            )
            for k, count in enumerate(blocks)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels [N, 3, H, W] to maps [N, C_k, ceil(H / s), ceil(W / s)], s = 4, 8, 16, 32."""
        stage_map = functional.relu(self.stem(pixels), inplace=True)
        stage_map = functional.max_pool2d(stage_map, 3, 2, 1)
        maps = []
        for stage in self.stages:
            stage_map = stage(stage_map)
            maps.append(stage_map)
        return tuple(maps)


def _stage(
    count: int, channels: int, width: int, out_channels: int, *, stride: int, dilation: int
) -> nn.Sequential:
    first = Bottleneck(channels, width, out_channels, stride=stride)
    rest = [
        Bottleneck(out_channels, width, out_channels, stride=1, dilation=dilation) for _ in range(count - 1)
    ]
    return nn.Sequential(first, *rest)
