"""Query responses to mask logits: convolutions between doublings.

Source: the published program's mask decoder. A doubling by nearest neighbour and the 3x3 convolution after it are, outside
training, one 2x2 convolution of the small map with four times the channels: each of the four output pixels of a cell
reads only four cells, so 4/9 of the arithmetic is left, and nothing but rounding changes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.backbone import SLOPE, ConvNorm, upsample


class UpConvNorm(ConvNorm):
    """A doubling by nearest neighbour, then a 3x3 convolution, its norm and the leaky activation."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', 2h, 2w]."""
        if self.training:
            return super().forward(upsample(x))
        weight, shift = self.folded()
        four = functional.conv2d(x, _by_phase(weight), shift.repeat(4), padding=1)  # [N, 4C', h + 1, w + 1]
        return _interleaved(functional.leaky_relu(four, SLOPE, inplace=True))


class MaskHead(nn.Module):
    """Maps of query responses at stride 16 to one map of logits at the configured stride."""

    def __init__(self, num_queries: int, dim: int, stride: int) -> None:
        super().__init__()
        at_start = (ConvNorm(channels, dim, 3) for channels in (num_queries, dim, dim))
        # Published behaviour: strides 8 and 16 have the same convolutions; one of them after a doubling.
        fourth = UpConvNorm(dim, dim) if stride <= 8 else ConvNorm(dim, dim, 3)
        doublings = (UpConvNorm(dim, dim) for limit in (4, 2) if stride <= limit)
        self.convs = nn.Sequential(*at_start, fourth, *doublings)
        self.last = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(self, responses: Tensor) -> Tensor:
        """[N, Q, G, G] to [N, 1, h, w]."""
        return self.last(self.convs(responses.contiguous(memory_format=torch.channels_last)))


def _by_phase(weight: Tensor) -> Tensor:
    """Kernels [C', C, 3, 3] over a doubled map as kernels [4C', C, 2, 2] over the map itself.

    Seen from an even row, rows (-1, 0, 1) of the doubled map are cells (-1, 0, 0); from an odd one, (0, 0, 1).
    """
    rows = (_pair(weight, 2, is_odd=False), _pair(weight, 2, is_odd=True))
    phases = [_pair(part, 3, is_odd=is_odd) for part in rows for is_odd in (False, True)]
    return torch.cat(phases)


def _pair(weight: Tensor, axis: int, *, is_odd: bool) -> Tensor:
    first, second, third = weight.unbind(axis)
    return torch.stack([first + second, third] if is_odd else [first, second + third], dim=axis)


def _interleaved(four: Tensor) -> Tensor:
    """[N, 4C, h + 1, w + 1] to [N, C, 2h, 2w]: phase (row, column) lies on rows and columns of its parity."""
    count, channels = four.shape[0], four.shape[1] // 4
    h, w = four.shape[2] - 1, four.shape[3] - 1
    doubled = torch.empty(
        (count, channels, 2 * h, 2 * w),
        dtype=four.dtype,
        device=four.device,
        memory_format=torch.channels_last,
    )
    for phase, part in enumerate(four.chunk(4, dim=1)):
        row, column = divmod(phase, 2)
        doubled[:, :, row::2, column::2] = part[:, :, row : row + h, column : column + w]
    return doubled
