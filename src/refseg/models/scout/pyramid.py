"""Coarse cells and words in one transformer, and the way back up to the mask features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import EncoderLayer
from .backbone import conv_norm
from .config import ScoutConfig
from .places import CODE_DIM, Places, blank_padding


@dataclass(slots=True)
class Memory:
    """What the queries read: coarse cells, then words."""

    tokens: Tensor  # [N, A, D]
    valid: Tensor  # [N, A]


class CellEncoder(nn.Module):
    """Cells of strides 16 and 32 and the words attend to each other."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.inputs = nn.ModuleList(nn.Linear(channels, dim) for channels in config.stage_channels[2:])
        self.rows = nn.ModuleList(nn.Linear(CODE_DIM, dim, bias=False) for _ in range(2))
        self.columns = nn.ModuleList(nn.Linear(CODE_DIM, dim, bias=False) for _ in range(2))
        self.words = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(
            EncoderLayer(dim, config.head_dim, config.feed_forward_dim) for _ in range(config.cell_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: tuple[Tensor, Tensor], where: tuple[Places, ...], words: Memory | None) -> Memory:
        """Maps of strides 16 and 32 [N, C, h, w] and words [N, L, D] (or none) to the memory of N pictures."""
        cells = [self._cells(level, *pair) for level, pair in enumerate(zip(maps, where, strict=True))]
        valid = torch.cat([place.valid.flatten(1) > 0 for place in where], dim=1)
        if words is not None:
            cells.append(self.words(words.tokens))
            valid = torch.cat((valid, words.valid), dim=1)
        tokens = torch.cat(cells, dim=1)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        return Memory(self.norm(tokens), valid)

    def _cells(self, level: int, maps: Tensor, where: Places) -> Tensor:
        cells = self.inputs[level](maps.permute(0, 2, 3, 1))  # [N, h, w, D]
        cells = cells + self.rows[level](where.rows)[:, :, None]
        return (cells + self.columns[level](where.columns)[:, None]).flatten(1, 2)


class Pyramid(nn.Module):
    """From coarse cells up to stride 8 and stride 4."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        _, channels8, _, _ = config.stage_channels
        self.coarse = nn.Linear(2 * config.hidden_dim, channels8)
        self.smooth8 = conv_norm(channels8, channels8)
        self.down8 = nn.Linear(channels8, config.mask_channels)
        self.side4 = nn.Linear(config.stage_channels[0], config.mask_channels)
        self.smooth4 = conv_norm(config.mask_channels, config.mask_channels)

    def stride8(self, memory: Memory, stage2: Tensor, where: tuple[Places, ...]) -> Tensor:
        """Coarse cells on top of the stage-2 map [N, C, h, w]; same shape."""
        (height16, width16), (height32, width32) = (place.valid.shape[-2:] for place in where[2:])
        fine = memory.tokens[:, : height16 * width16].unflatten(1, (height16, width16))
        coarse = memory.tokens[:, height16 * width16 :][:, : height32 * width32]
        coarse = double(coarse.unflatten(1, (height32, width32)))
        lifted = double(self.coarse(torch.cat((fine, coarse), dim=-1))).permute(0, 3, 1, 2)
        return blank_padding(functional.relu(self.smooth8(stage2 + lifted), inplace=True), where[1].valid)

    def stride4(self, map8: Tensor, stage1: Tensor, detail: Tensor, where: tuple[Places, ...]) -> Tensor:
        """Mask features [N, C, h, w] at stride 4 out of all that is finer and coarser."""
        lifted = double(self.down8(map8.permute(0, 2, 3, 1)))
        mixed = (lifted + self.side4(stage1.permute(0, 2, 3, 1))).permute(0, 3, 1, 2) + detail
        return blank_padding(functional.relu(self.smooth4(mixed), inplace=True), where[0].valid)


def double(cells: Tensor) -> Tensor:
    """Cells [N, h, w, C] to [N, 2h, 2w, C], each repeated (nearest)."""
    size = cells.shape
    grown = cells[:, :, None, :, None].expand(size[0], size[1], 2, size[2], 2, size[3])
    return grown.reshape(size[0], 2 * size[1], 2 * size[2], size[3])
