"""Per-pixel features: a deformable encoder over strides 32, 16 and 8 that reads the words after every layer, and one step
of a feature pyramid down to stride 4.

Source: section 3.3 of the paper; the encoder is that of "Deformable DETR" without valid ratios, since nothing is padding.
A departure: the last convolution is not applied to the map but folded into the weights of the mask, see `masks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import CrossAttention
from refseg.layers.deformable import DeformableEncoderLayer
from refseg.layers.feed_forward import FeedForward
from refseg.layers.position import sine_2d
from refseg.models.lgformer.config import LGFormerConfig

NUM_LEVELS = 3  # strides 32, 16, 8: the order of the published weights
NUM_POINTS = 4
NORM_GROUPS = 32


@dataclass(slots=True)
class Places:
    """Where the cells of the levels lie; the levels stand one after the other, coarsest first."""

    sizes: tuple[tuple[int, int], ...]
    position: tuple[Tensor, ...]  # each [1, h*w, C] sine codes, without level embedding
    reference: Tensor  # [1, S, 1, 2] the centre (x, y) of each cell in [0, 1], for any level

    @property
    def areas(self) -> list[int]:
        """Cells per level."""
        return [h * w for h, w in self.sizes]


def place_levels(sizes: Sequence[tuple[int, int]], dim: int, device: torch.device) -> Places:
    """The places of levels of `sizes`, for codes of `dim` channels."""
    codes = []
    for size in sizes:
        everywhere = torch.ones((1, *size), dtype=torch.bool, device=device)
        codes.append(sine_2d(everywhere, dim).flatten(1, 2))
    centres = torch.cat([_centres(size, device) for size in sizes])
    return Places(tuple(sizes), tuple(codes), centres[None, :, None])


class ConvNorm(nn.Module):
    """A convolution and a group normalisation."""

    def __init__(self, channels: int, dim: int, *, size: int = 1, has_bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, size, padding=size // 2, bias=has_bias)
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, h, w] to [N, dim, h, w]."""
        return self.norm(self.conv(maps))


class TextLayer(nn.Module):
    """Tokens look at the words, and are refined."""

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config.dim, config.text.width, config.num_heads)
        self.norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.text_hidden_dim)

    def look(self, tokens: Tensor, position: Tensor, keys: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """Tokens [N, S, C] after they have looked at the words, before the feed-forward network; keys, words [N, L, D]."""
        return self.norm(tokens + self.attention(tokens + position, keys, words, valid))


class PixelDecoder(nn.Module):
    """Projections, encoder and pyramid step."""

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__()
        finest, *coarser = config.backbone.out_channels
        self.projections = nn.ModuleList(
            ConvNorm(channels, config.dim, has_bias=True) for channels in reversed(coarser)
        )
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, config.dim))
        self.key_embed = nn.Embedding(config.max_tokens, config.text.width)
        self.layers = nn.ModuleList(_encoder_layer(config) for _ in range(config.num_encoder_layers))
        self.text_layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_encoder_layers))
        self.adapter = ConvNorm(finest, config.dim)
        self.layer = ConvNorm(config.dim, config.dim, size=3)
        self.mask_features = nn.Conv2d(config.dim, config.dim, 1)
        self._reset_parameters()

    def forward(
        self,
        maps: Sequence[Tensor],
        words: Tensor,
        valid: Tensor,
        places: Places,
        *,
        rough: AbstractContextManager[object],
    ) -> tuple[Tensor, list[Tensor]]:
        """The finest map [N, C, h, w] before `mask_features`, and the memory of each level [N, h*w, C], coarsest first.

        Feed-forward networks, which are most of the work and the least delicate, are computed within `rough`; it is
        entered several times.

        Shapes:
            maps: what the stages told [N, h, w, C_k], finest first; words: [N, L, D]; valid: [N, L] bool.
        """
        finest, *coarser = maps
        tokens = torch.cat(
            [
                projection(as_channels(level)).flatten(2).transpose(1, 2)
                for projection, level in zip(self.projections, reversed(coarser), strict=True)
            ],
            dim=1,
        )
        memory = self._encode(tokens, words, valid, places, rough).split(places.areas, dim=1)
        h, w = places.sizes[-1]
        stride_8 = memory[-1].unflatten(1, (h, w)).permute(0, 3, 1, 2)
        adapted = self.adapter(as_channels(finest))
        enlarged = functional.interpolate(stride_8, adapted.shape[-2:], mode="bilinear", align_corners=False)
        return functional.relu(self.layer(adapted + enlarged), inplace=True), list(memory)

    def masks(self, finest: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """Mask logits [N, Q, h, w]: the pixel features (`mask_features` of the finest map) times weights, plus a bias.

        Shapes:
            finest: [N, C, h, w]; weights: [N, Q, C]; bias: [N, Q].
        """
        last = self.mask_features
        assert last.bias is not None
        folded = weights @ last.weight.flatten(1)  # [N, Q, C]
        shift = weights @ last.bias + bias
        logits = torch.baddbmm(shift[..., None], folded, finest.flatten(2))
        return logits.unflatten(-1, finest.shape[-2:])

    def _encode(
        self,
        tokens: Tensor,
        words: Tensor,
        valid: Tensor,
        places: Places,
        rough: AbstractContextManager[object],
    ) -> Tensor:
        codes = zip(places.position, self.level_embed, strict=True)
        position = torch.cat([code + embedding for code, embedding in codes], dim=1)
        keys = words + self.key_embed.weight
        for first, second in zip(self.layers, self.text_layers, strict=True):
            layer, text_layer = cast("DeformableEncoderLayer", first), cast("TextLayer", second)
            tokens = layer.look(tokens, position, places.reference, places.sizes)
            with rough:
                tokens = layer.feed_forward(tokens)
            tokens = text_layer.look(tokens, position, keys, words, valid)
            with rough:
                tokens = text_layer.feed_forward(tokens)
        return tokens

    def _reset_parameters(self) -> None:
        """Published initial values; those of attention come with it, but for the feed-forward networks."""
        nn.init.xavier_uniform_(self.key_embed.weight)
        for module in self.modules():
            if isinstance(module, FeedForward):
                nn.init.xavier_uniform_(module.linear1.weight)
                nn.init.xavier_uniform_(module.linear2.weight)
        for conv in (part.conv for part in self.projections if isinstance(part, ConvNorm)):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        for conv in (self.adapter.conv, self.layer.conv, self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)


def as_channels(cells: Tensor) -> Tensor:
    """[N, h, w, C] to [N, C, h, w], the same memory."""
    return cells.permute(0, 3, 1, 2)


def _encoder_layer(config: LGFormerConfig) -> DeformableEncoderLayer:
    return DeformableEncoderLayer(
        config.dim,
        num_heads=config.num_heads,
        num_levels=NUM_LEVELS,
        num_points=NUM_POINTS,
        hidden_dim=config.encoder_hidden_dim,
    )


def _centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """[h*w, 2] cell centres (x, y) in [0, 1]."""
    h, w = size
    y, x = (torch.arange(side, device=device, dtype=torch.float32).add(0.5) / side for side in (h, w))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=-1)
