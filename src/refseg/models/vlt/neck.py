"""Where picture and phrase meet: the phrase multiplies the coarsest map, finer maps join on the way up.

Source: section 3.1 of the paper, the published program's fusion. Words enter at the product, so that all before it is
computed once a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.blocks import SLOPE, BatchNorm, ConvNorm, dense, upsample

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
