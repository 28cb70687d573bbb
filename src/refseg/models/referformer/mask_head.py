"""Dynamic mask head: each candidate query brings the weights of a small convolutional network of its own.

Source: section 3.4 of the paper; "Conditional Convolutions for Instance Segmentation" (Tian et al., 2020).
Departures: the first layer reads features and coordinates apart, so that no copy of the features per query is made.
Where only few masks are asked for, the convolution that makes the mask features is folded into that first layer: both
are linear, so one convolution with `dynamic_channels` outputs a query gives the same numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.feed_forward import MLP
from refseg.models.referformer.config import ReferFormerConfig

STRIDE = 4  # canvas pixels per cell of a mask


@dataclass(slots=True)
class DynamicWeights:
    """The networks of M queries in each of N frames."""

    features: Tensor  # [N, M, d, mask_dim] first layer, on mask features
    coordinates: Tensor | None  # [N, M, d, 2] first layer, on relative x and y
    later: tuple[Tensor, ...]  # each [N, M, out, d]
    biases: tuple[Tensor, ...]  # each [N, M, out], the first layer's first


class MaskHead(nn.Module):
    """States of candidate queries and mask features to mask logits."""

    def __init__(self, config: ReferFormerConfig) -> None:
        super().__init__()
        self.num_layers = config.num_dynamic_layers
        self.channels = config.dynamic_channels
        self.mask_dim = config.mask_dim
        self.has_coordinates = config.has_relative_coordinates
        self.controller = MLP(
            (config.dim, config.dim, config.dim, sum(self._weight_counts()) + sum(self._widths()))
        )
        for name, values in self.controller.named_parameters():
            (nn.init.zeros_ if name.endswith("bias") else nn.init.xavier_uniform_)(values)

    def _widths(self) -> list[int]:
        """Output channels of each dynamic layer."""
        return [self.channels] * (self.num_layers - 1) + [1]

    def _weight_counts(self) -> list[int]:
        inputs = [self.mask_dim + 2 * self.has_coordinates] + [self.channels] * (self.num_layers - 1)
        return [given * width for given, width in zip(inputs, self._widths(), strict=True)]

    def weights(self, states: Tensor) -> DynamicWeights:
        """The networks that query states [N, M, C] ask for, in float32."""
        widths = self._widths()
        with _exactly(states):
            numbers = self.controller(states.float())
        parts = numbers.split([*self._weight_counts(), *widths], dim=-1)
        first, *later = (
            part.unflatten(-1, (width, -1))
            for part, width in zip(parts[: self.num_layers], widths, strict=True)
        )
        coordinates = first[..., self.mask_dim :] if self.has_coordinates else None
        return DynamicWeights(
            first[..., : self.mask_dim], coordinates, tuple(later), parts[self.num_layers :]
        )

    def forward(self, maps: Tensor, weights: DynamicWeights, centres: Tensor) -> Tensor:
        """Mask logits from mask features.

        Shapes:
            maps: [N, mask_dim, h, w].
            centres: [N, M, 2] reference centres (x, y) in canvas pixels.
            returns: [N, M, h, w] float32.
        """
        with _exactly(maps):
            hidden = torch.einsum("nmdc,nchw->nmdhw", weights.features, maps.float())
            return self._finish(hidden, weights, centres)

    def folded(self, maps: Tensor, weights: DynamicWeights, centres: Tensor, last: nn.Conv2d) -> Tensor:
        """The same from the input [N, C, h, w] of `last`, the convolution that makes the mask features."""
        assert last.bias is not None
        with _exactly(maps):
            kernels = torch.einsum("nmdc,cikl->nmdikl", weights.features, last.weight.float())
            shifts = weights.features @ last.bias.float()  # [N, M, d]
            hidden = self._convolved(maps.float(), kernels, shifts, last)
            return self._finish(hidden.unflatten(1, shifts.shape[1:]), weights, centres)

    @staticmethod
    def _convolved(maps: Tensor, kernels: Tensor, shifts: Tensor, last: nn.Conv2d) -> Tensor:
        # One frame a convolution, as a slice: a frame without its axis would lose the layout that convolutions like.
        return torch.cat(
            [
                functional.conv2d(frame, kernel.flatten(0, 1), shift.flatten(), padding=last.padding)
                for frame, kernel, shift in zip(maps.split(1), kernels, shifts, strict=True)
            ]
        )

    def _finish(self, hidden: Tensor, weights: DynamicWeights, centres: Tensor) -> Tensor:
        """The first layer's reading of features [N, M, d, h, w] to mask logits [N, M, h, w]."""
        if weights.coordinates is not None:
            hidden = hidden + self._read_coordinates(weights.coordinates, centres, hidden.shape[-2:])
        hidden = hidden + weights.biases[0][..., None, None]
        for kernel, bias in zip(weights.later, weights.biases[1:], strict=True):
            hidden = torch.einsum("nmod,nmdhw->nmohw", kernel, functional.relu(hidden, inplace=True))
            hidden = hidden + bias[..., None, None]
        return hidden.squeeze(2)

    @staticmethod
    def _read_coordinates(kernel: Tensor, centres: Tensor, size: torch.Size) -> Tensor:
        # Published behaviour: distances from the reference are raw canvas pixels, not normalised.
        y, x = (torch.arange(count, device=centres.device) * STRIDE + STRIDE // 2 for count in size)
        from_x = centres[..., :1] - x  # [N, M, w]
        from_y = centres[..., 1:] - y  # [N, M, h]
        across = kernel[..., 0, None] * from_x[:, :, None]  # [N, M, d, w]
        down = kernel[..., 1, None] * from_y[:, :, None]  # [N, M, d, h]
        return across[..., None, :] + down[..., None]


def _exactly(maps: Tensor) -> AbstractContextManager[object]:
    """No half precision from here on: coordinates are raw pixels, and rounding hundreds of them moves the edges of masks."""
    return torch.autocast(maps.device.type, enabled=False)
