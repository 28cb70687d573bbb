"""The parts that VLT is built from: convolution, norm and leaky activation; a layer norm and a dense layer of Keras."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.layers.precision import at_least_float32
from refseg.layers.shared_norm import shared_moments

SLOPE = 0.1  # of the leaky activation
NORM_EPS = 1e-3
MOMENTUM = 0.01  # the share of a batch in the moving averages


class BatchNorm(nn.Module):
    """Batch normalisation over channels [N, C, h, w] or features [N, C].

    Published behaviour: in training a frozen norm normalises with the batch too; only its moving averages stay. It is
    frozen where its scale does not learn.
    """

    shares_statistics = False  # several processes: normalises by the examples of all of them
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised values, of the same shape.

        Raises:
            InvalidInput: in training, if there is a single value per channel.
        """
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=NORM_EPS
            )
        if self.shares_statistics and distributed.world_size() > 1:
            return self._normalised_together(x)
        count = x.numel() // x.shape[1]
        if count < 2:
            raise InvalidInput(
                "a batch of one phrase has no statistics to normalise by; train VLT with run.batch_size of at least 2"
            )
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normalised = functional.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=NORM_EPS
        )
        if self.weight.requires_grad:
            self._note(mean, variance, count, is_map=x.ndim == 4)
        return normalised

    def _normalised_together(self, x: Tensor) -> Tensor:
        mean, variance, count = shared_moments(x)
        if self.weight.requires_grad:
            unbiased = variance.detach() * count / (count - 1)
            self._note(mean.detach(), unbiased, int(count), is_map=x.ndim == 4)
        scale = (variance + NORM_EPS).rsqrt() * self.weight
        shift = self.bias - mean * scale
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (at_least_float32(x) * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """[C] and [C]: outside training, the normalisation of x is x * scale + shift."""
        scale = self.weight * (self.running_var + NORM_EPS).rsqrt()
        return scale, self.bias - self.running_mean * scale

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, count: int, *, is_map: bool) -> None:
        """The moving averages after a batch of `variance`, which torch gives unbiased.

        Published behaviour: the variance of maps is unbiased twice, that of features once, each time by another rule.
        """
        once = variance if is_map else variance * ((count - 1) / count)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), MOMENTUM)
        self.running_var.lerp_((once * (count / (count - 1.001))).to(self.running_var.dtype), MOMENTUM)


class ConvNorm(nn.Module):
    """A convolution without bias, its norm, and the leaky activation; folded into one convolution outside training."""

    def __init__(self, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
        self.norm = BatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', h, w]."""
        if self.training:
            return functional.leaky_relu(self.norm(self.conv(x)), SLOPE)
        weight, bias = self.folded()
        answer = functional.conv2d(x, weight, bias, self.conv.stride, self.conv.padding)
        return functional.leaky_relu(answer, SLOPE, inplace=True)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals convolution and norm outside training."""
        scale, shift = self.norm.scale_and_shift()
        return self.conv.weight * scale.view(-1, 1, 1, 1), shift


class DownConvNorm(ConvNorm):
    """Halves a map: one row of zeros on top, one column on the left, then stride 2 without further padding."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3)
        self.conv.stride, self.conv.padding = (2, 2), (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', h / 2, w / 2]."""
        return super().forward(functional.pad(x, (1, 0, 1, 0)))


class KerasLayerNorm(nn.LayerNorm):
    """Layer norm with the published epsilon, the square of 1e-7."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-14)


def dense(features: int, out_features: int) -> nn.Linear:
    """A linear layer with the published first values: Glorot uniform, no bias."""
    layer = nn.Linear(features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def dense_normal(features: int, out_features: int) -> nn.Linear:
    """A linear layer with the published first values of attention and feed-forward parts: Glorot, cut at two sigmas."""
    layer = nn.Linear(features, out_features)
    # Keras widens the normal by this so that its deviation after the cut is Glorot's.
    deviation = (2 / (features + out_features)) ** 0.5 / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
    return layer


def upsample(maps: Tensor) -> Tensor:
    """[N, C, h, w] to [N, C, 2h, 2w], each cell four times."""
    return functional.interpolate(maps, scale_factor=2, mode="nearest")
