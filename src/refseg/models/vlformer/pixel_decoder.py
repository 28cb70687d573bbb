"""From backbone maps and words to a memory of three levels and a fine map for masks.

Source: section 3 of the paper; the encoder is that of Mask2Former (Cheng et al., CVPR 2022). Levels go from coarse
(stride 32) to fine (stride 8) here. All of it runs in float32, as published, whatever the precision around it.
Published behaviour: padding of the canvas is image to all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import Attention
from refseg.layers.deformable import DeformableEncoderLayer
from refseg.layers.position import sine_1d
from refseg.models.vlformer.config import PaddedWords, VLFormerConfig

NUM_LEVELS = 3
NUM_GROUPS = 32  # of every normalisation of maps
RAISE = 1.0  # Published behaviour: what padded words get on top of their scores

Size = tuple[int, int]


@dataclass(slots=True)
class Words:
    """The words of P phrases as keys and values."""

    keys: Tensor  # [P, L, C] features plus position
    values: Tensor  # [P, L, C] features
    valid: Tensor  # [P, L] bool

    def rows(self, index: Tensor) -> Words:
        """The rows that `index` names, so that every frame has the words of its phrase."""
        return Words(self.keys[index], self.values[index], self.valid[index])


@dataclass(slots=True)
class Memory:
    """What the pixel decoder makes of N frames."""

    levels: list[Tensor]  # [N, h*w, C] of strides 32, 16 and 8
    sizes: list[Size]
    fine: Tensor  # [N, C, h, w] of stride 4; mask features are a linear function of it


class ConvGroupNorm(nn.Module):
    """A convolution and a group normalisation."""

    def __init__(self, channels: int, out_channels: int, size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=bias)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_channels)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', h, w]."""
        return self.norm(self.conv(x))


class Fusion(nn.Module):
    """Early fusion: cells times what they read from the words; no residual and no normalisation, as published."""

    def __init__(self, dim: int, num_heads: int, padded_words: PaddedWords) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.padded_words = padded_words

    def forward(self, tokens: Tensor, words: Words) -> Tensor:
        """Cells [N, S, C] and the words of N rows; to the cells' shape."""
        return tokens * self.attention(tokens, words.keys, words.values, self._seen(words.valid))

    def _seen(self, valid: Tensor) -> Tensor:
        # Published behaviour: the published mask of padding is a float one, which is added to the scores, so that padding
        # is raised by 1 and not excluded. One phrase alone has no padding, so all published predictions exclude it.
        if self.training and self.padded_words == "raised":
            return RAISE * (~valid).float()
        return valid


class PixelDecoder(nn.Module):
    """Projections, fusion, deformable encoder, and one step of a feature pyramid."""

    def __init__(self, config: VLFormerConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        dim = config.dim
        finest, *coarser = channels
        self.projections = nn.ModuleList(
            ConvGroupNorm(width, dim, 1, bias=True) for width in reversed(coarser)
        )
        self.fusions = nn.ModuleList(
            Fusion(dim, config.num_heads, config.padded_words) for _ in range(NUM_LEVELS)
        )
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                dim,
                num_heads=config.num_heads,
                num_levels=NUM_LEVELS,
                num_points=config.num_points,
                hidden_dim=config.encoder_hidden_dim,
            )
            for _ in range(config.num_encoder_layers)
        )
        self.adapter = ConvGroupNorm(finest, dim, 1)
        self.smooth = ConvGroupNorm(dim, dim, 3)
        self.mask_features = nn.Conv2d(dim, config.mask_dim, 1)
        self._reset()

    def prepare(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """All that needs no words: backbone maps [N, C_k, h, w] finest first, to maps [N, C, h, w] finest first."""
        finest, *coarser = maps
        with _in_float32(finest):
            projected = [
                project(level.float())
                for project, level in zip(reversed(self.projections), coarser, strict=True)
            ]
            return [self.adapter(finest.float()), *projected]

    def forward(self, prepared: list[Tensor], words: Words) -> Memory:
        """Prepared maps of N frames and the words of N rows."""
        words = Words(words.keys.float(), words.values.float(), words.valid)
        adapted, *levels = prepared
        levels.reverse()  # coarse first
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        with _in_float32(adapted):
            fused = [fuse(cells(level), words) for fuse, level in zip(self.fusions, levels, strict=True)]
            memory = self._encoded(torch.cat(fused, dim=1), sizes).split([h * w for h, w in sizes], dim=1)
            coarser = as_map(memory[-1], sizes[-1])
            grown = functional.interpolate(coarser, adapted.shape[-2:], mode="bilinear", align_corners=False)
            fine = functional.relu(self.smooth(adapted + grown), inplace=True)
        return Memory(list(memory), sizes, fine)

    def _encoded(self, tokens: Tensor, sizes: list[Size]) -> Tensor:
        """Tokens [N, S, C] of all levels after the deformable encoder."""
        position = torch.cat(
            [
                spatial_position(size, tokens) + embed
                for size, embed in zip(sizes, self.level_embed, strict=True)
            ]
        )[None]
        centres = torch.cat([_centres(size, tokens) for size in sizes])[None, :, None]  # [1, S, 1, 2]
        for layer in self.layers:
            tokens = layer(tokens, position, centres, sizes)
        return tokens

    def _reset(self) -> None:
        """Initial values, as published, of what the parts do not set themselves."""
        for projection in self.projections:
            assert isinstance(projection, ConvGroupNorm) and projection.conv.bias is not None
            nn.init.xavier_uniform_(projection.conv.weight)
            nn.init.zeros_(projection.conv.bias)
        for layer in self.layers:
            assert isinstance(layer, DeformableEncoderLayer)
            for linear in (layer.feed_forward.linear1, layer.feed_forward.linear2):
                nn.init.xavier_uniform_(linear.weight)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)


def spatial_position(size: Size, like: Tensor) -> Tensor:
    """Sine codes [h*w, C] of a map's cells, all of which count: the row in the first half, the column in the second."""
    half = like.shape[-1] // 2
    rows, columns = (
        sine_1d(torch.ones(1, side, dtype=torch.bool, device=like.device), half)[0] for side in size
    )
    grid = torch.cat(
        [rows[:, None].expand(*size, half), columns[None].expand(*size, half)], dim=-1
    )  # [h, w, C]
    return grid.flatten(0, 1)


def cells(maps: Tensor) -> Tensor:
    """[N, C, h, w] to [N, h*w, C]; a view where the map is stored channels last."""
    return maps.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, size: Size) -> Tensor:
    """[N, h*w, C] to [N, C, h, w], stored channels last."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def _centres(size: Size, like: Tensor) -> Tensor:
    """Cell centres (x, y) in [0, 1] of a map: [h*w, 2]."""
    y, x = torch.meshgrid(
        *((torch.arange(side, device=like.device) + 0.5) / side for side in size), indexing="ij"
    )
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def _in_float32(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)
