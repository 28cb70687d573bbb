"""Normalisations that torch lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FROZEN_EPS = 1e-5  # torchvision and detectron2 alike


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose four vectors are buffers: a scale and a shift per channel, never trained."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """[C] and [C]: the normalisation of x is x * scale + shift."""
        scale = self.weight * (self.running_var + FROZEN_EPS).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        scale, shift = self.scale_and_shift()
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


class ConvFrozenNorm(nn.Module):
    """A convolution without bias and the frozen normalisation after it, computed as one convolution.

    Scaling the weights instead of the map saves two passes over it, and one copy of it in training.
    """

    def __init__(
        self, channels: int, out_channels: int, size: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = size // 2 * dilation
        self.conv = nn.Conv2d(
            channels, out_channels, size, stride, padding=padding, dilation=dilation, bias=False
        )
        self.norm = FrozenBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', ceil(h / stride), ceil(w / stride)]."""
        scale, shift = self.norm.scale_and_shift()
        weight = self.conv.weight * scale.view(-1, 1, 1, 1)
        conv = self.conv
        return functional.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation)
