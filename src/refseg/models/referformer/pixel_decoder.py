"""Cross-modal feature pyramid: from the finest backbone map and the memory to a map for masks.

Source: section 3.4 of the paper. The frames of a clip look at each other here, and nowhere else (with a 2-D backbone).
Departure: the finest map carries no words until its cross-attention, so what comes before belongs to `encode_visual`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import Attention
from refseg.layers.chunking import frames_at_once, gather, row_steps
from refseg.layers.feed_forward import FeedForward
from refseg.layers.position import sine_2d
from refseg.models.referformer.config import ReferFormerConfig
from refseg.models.referformer.levels import CELL_OFFSET, level_valid
from refseg.models.referformer.transformer import Words, initialise_matrices

NUM_HEADS = 8  # whatever the transformer's own number is
NUM_GROUPS = 8  # of every normalisation of maps
DROPOUT = 0.1  # whatever the transformer's own value is
REDUCTIONS = (8, 4, 2, 1)  # of keys and queries in the self-attention of strides 4, 8, 16, 32


class ConvGroupNorm(nn.Module):
    """A convolution without bias and a group normalisation."""

    def __init__(self, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_channels)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', h, w]."""
        return self.norm(self.conv(x))


class VisionLanguageBlock(nn.Module):
    """Cells of a clip look at each other on a reduced grid, then at the words, then at themselves."""

    def __init__(self, dim: int, hidden_dim: int, *, reduction: int) -> None:
        super().__init__()
        self.reduction = reduction
        self.self_attention = Attention(dim, NUM_HEADS, dropout=DROPOUT)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, NUM_HEADS, dropout=DROPOUT)
        self.cross_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout=DROPOUT)
        self.dropout = nn.Dropout(DROPOUT)
        initialise_matrices(self)

    def look_around(self, maps: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        """The self-attention of whole clips, which needs no words. Without gradients `maps` may be overwritten.

        Shapes:
            maps: [P*T, C, h, w]; position: [P, h*w, C]; valid: [P, h, w].
            returns: [P*T, C, h, w].
        """
        h, w = maps.shape[-2:]
        clips, frames = len(position), len(maps) // len(position)
        grid = (max(h // self.reduction, 1), max(w // self.reduction, 1))
        values = _reduced(maps, grid)
        places = _reduced(as_map(position, (h, w)), grid).repeat_interleave(frames, dim=0)
        values, queries = (
            cells(part).unflatten(0, (clips, frames)).flatten(1, 2) for part in (values, values + places)
        )  # [P, T*h'*w', C]
        allowed = level_valid(valid, grid).flatten(1).repeat(1, frames)
        seen = self.self_attention(queries, queries, values, allowed)
        seen = as_map(seen.unflatten(1, (frames, -1)).flatten(0, 1), grid)
        steps = row_steps(len(maps), frames_at_once(maps.device))
        if len(steps) == 1:
            return as_map(self._settle(maps, seen), (h, w))
        tokens = cells(maps)
        for rows in steps:
            settled = self._settle(maps[rows], seen[rows])
            if settled.dtype != tokens.dtype:  # under autocast, once
                tokens = tokens.to(settled.dtype)
            tokens[rows] = settled
        return as_map(tokens, (h, w))

    def _settle(self, maps: Tensor, seen: Tensor) -> Tensor:
        """Maps [N, C, h, w] and what was seen [N, C, h', w'] of them to tokens [N, h*w, C]."""
        if seen.shape[-2:] != maps.shape[-2:]:
            seen = functional.interpolate(seen, maps.shape[-2:], mode="bilinear", align_corners=False)
        return self.self_norm(cells(maps + self.dropout(seen)))

    def look_at_words(self, maps: Tensor, position: Tensor, words: Words) -> Tensor:
        """What comes after the self-attention; maps [N, C, h, w], positions [N, h*w, C] and words of N frames."""
        tokens = cells(maps)
        read = self.cross_attention(tokens + position, words.keys, words.values, words.valid)
        tokens = self.cross_norm(tokens + self.dropout(read))
        return as_map(self.feed_forward(tokens), maps.shape[-2:])


class PixelDecoder(nn.Module):
    """Four levels, finest first in every list; coarse ones are added to finer ones."""

    def __init__(self, config: ReferFormerConfig, finest_channels: int) -> None:
        super().__init__()
        dim = config.dim
        channels = (finest_channels, dim, dim, dim)
        self.adapters = nn.ModuleList(ConvGroupNorm(width, dim, 1) for width in channels)
        self.blocks = nn.ModuleList(
            VisionLanguageBlock(dim, config.hidden_dim, reduction=reduction) for reduction in REDUCTIONS
        )
        self.layers = nn.ModuleList(ConvGroupNorm(dim, dim, 3) for _ in channels)
        self.mask_features = nn.Conv2d(dim, config.mask_dim, 3, padding=1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)

    def adapt_finest(self, maps: Tensor) -> Tensor:
        """Backbone maps [N, C0, h, w] of any frames to [N, C, h, w]."""
        return self.adapters[0](maps)

    def prepare_finest(self, adapted: Tensor, valid: Tensor) -> Tensor:
        """All else that the finest level does without words: adapted maps [B*T, C, h, w] to the same shape."""
        return self._block(0).look_around(adapted, *place_map(adapted, valid))

    def coarse(self, memory: list[Tensor], valid: Tensor, words: Words) -> Tensor:
        """Strides 32, 16 and 8: memory maps [P*T, C, h, w] finest first, words of P rows; to the map of stride 8."""
        summed: Tensor | None = None
        for level in (3, 2, 1):
            adapted = self._adapted(level, memory[level - 1])
            position, level_mask = place_map(adapted, valid)
            seen = self._block(level).look_around(adapted, position, level_mask)
            del adapted
            (summed,) = gather(self._told(level, seen, position, words, summed), len(seen))
        assert summed is not None
        return summed

    def _adapted(self, level: int, maps: Tensor) -> Tensor:
        steps = row_steps(len(maps), frames_at_once(maps.device))
        (adapted,) = gather(((self.adapters[level](maps[rows]),) for rows in steps), len(maps))
        return adapted

    def _told(
        self, level: int, seen: Tensor, position: Tensor, words: Words, coarser: Tensor | None
    ) -> Iterator[tuple[Tensor]]:
        """What the frames of a level [N, C, h, w] become with words and the coarser sum, a few frames at a time."""
        owners = torch.arange(len(seen), device=seen.device) // (len(seen) // len(position))
        for rows in row_steps(len(seen), frames_at_once(seen.device)):
            spoken = words.rows(owners[rows])
            told = self._block(level).look_at_words(seen[rows], position[owners[rows]], spoken)
            yield (self._descend(level, told, None if coarser is None else coarser[rows]),)

    def finest(self, prepared: Tensor, position: Tensor, words: Words, coarser: Tensor) -> Tensor:
        """Stride 4 for any N frames: prepared maps, positions [N, h*w, C], words, the coarser sum; to [N, C, h, w]."""
        return self._descend(0, self._block(0).look_at_words(prepared, position, words), coarser)

    def _block(self, level: int) -> VisionLanguageBlock:
        return cast("VisionLanguageBlock", self.blocks[level])

    def _descend(self, level: int, maps: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is not None:
            maps = maps + functional.interpolate(coarser, maps.shape[-2:], mode="nearest")
        return functional.relu(self.layers[level](maps), inplace=True)


def place_map(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [P, h*w, C] and valid cells [P, h, w] of maps [P*T, C, h, w] over canvases `valid` [P, H, W]."""
    level_mask = level_valid(valid, (maps.shape[-2], maps.shape[-1]))
    position = sine_2d(level_mask, maps.shape[1], offset=CELL_OFFSET).to(maps.dtype)
    return position.flatten(1, 2), level_mask


def cells(maps: Tensor) -> Tensor:
    """[N, C, h, w] to [N, h*w, C]; a view where the map is stored channels last."""
    return maps.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """[N, h*w, C] to [N, C, h, w], stored channels last."""
    return tokens.unflatten(1, (size[0], size[1])).permute(0, 3, 1, 2)


def _reduced(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size, mode="nearest")
