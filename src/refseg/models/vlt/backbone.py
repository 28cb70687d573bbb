"""The parts that VLT is built from: convolution, norm and leaky activation; a layer norm and a dense layer of Keras.

Darknet-53 and the three pairs of convolutions that a YOLOv3 detector puts on its coarsest map.

Source: "YOLOv3: An Incremental Improvement" (Redmon & Farhadi, 2018), as VLT uses it.

Where picture and phrase meet: the phrase multiplies the coarsest map, finer maps join on the way up.

Source: section 3.1 of the paper, the published program's fusion. Words enter at the product, so that all before it is
computed once a picture.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.layers.precision import at_least_float32
from refseg.layers.sync_batch_norm import shared_moments

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


WIDE_CHANNELS = 256  # of the map that joins coarse and fine; a constant, whatever the transformer's width


class Sides(nn.Module):
    """What the picture alone gives to the fusion."""

    def __init__(self, fine: int, middle: int, coarse: int) -> None:
        super().__init__()
        self.look = nn.Sequential(ConvNorm(coarse, coarse // 2, 1), ConvNorm(coarse // 2, coarse, 3))
        self.middle = ConvNorm(middle, middle, 1)
        self.fine = ConvNorm(fine, fine, 1)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Backbone maps of strides 8, 16 and 32 to maps of strides 16, 16 and 32."""
        return (
            self.fine(functional.avg_pool2d(fine, 2)),
            self.middle(middle),
            coarse + self.look(coarse),
        )


class Fusion(nn.Module):
    """The phrase, multiplied into the coarsest map and carried up to stride 16."""

    def __init__(self, fine: int, middle: int, coarse: int, *, phrase_dim: int, dim: int) -> None:
        super().__init__()
        half = coarse // 2
        self.phrase = dense(phrase_dim, coarse)
        self.phrase_norm = BatchNorm(coarse)
        self.product_norm = BatchNorm(coarse)
        self.middle = ConvNorm(coarse + middle, half, 1)
        self.fine = ConvNorm(half + fine, half, 1)
        self.refine = nn.Sequential(ConvNorm(half, half // 2, 1), ConvNorm(half // 2, half, 3))
        self.join = ConvNorm(2 * half, half, 1)
        self.wide = ConvNorm(coarse + half, WIDE_CHANNELS, 1)
        self.narrow = ConvNorm(WIDE_CHANNELS, dim, 1)

    def forward(
        self, sides: tuple[Tensor, Tensor, Tensor], phrase: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps of the picture and phrases [N, U] to four fused maps.

        They are: the product (stride 32), what the middle map gave to it, what queries are made of, and what the
        transformer reads (stride 16 all three).
        """
        fine, middle, coarse = sides
        told = functional.leaky_relu(self.phrase_norm(self.phrase(phrase)), SLOPE)
        product = functional.leaky_relu(self.product_norm(coarse * told[:, :, None, None]), SLOPE)
        above = upsample(product)
        mixed = self.middle(torch.cat([above, middle], dim=1))
        queried = self.fine(torch.cat([mixed, fine], dim=1))
        joined = self.join(torch.cat([self.refine(queried), mixed], dim=1))
        read = self.narrow(self.wide(torch.cat([above, joined], dim=1)))
        return product, mixed, queried, read
