"""Coarse cells and words in one transformer, and the way back up to the mask features.

The query: what it reads, and what it says (kernel, box, existence).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.scout.attention import CrossAttention, EncoderLayer, feed_forward
from refseg.models.scout.backbone import conv_norm
from refseg.models.scout.config import ScoutConfig
from refseg.models.scout.position import CODE_DIM, Places, blank_padding
from refseg.structures import Output


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


SUBCELLS = 4  # a cell of stride 4 answers for 2 x 2 cells of stride 2


EMPTY_LOGIT = -2.0  # where masks start: most pixels belong to no answer


class QueryLayer(nn.Module):
    """The query reads cells and words, then thinks."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_dim) for _ in range(2))
        self.reading = CrossAttention(config.hidden_dim, config.head_dim)
        self.feed_forward = feed_forward(config.hidden_dim, config.feed_forward_dim)

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        """Query [N, 1, D] to [N, 1, D]."""
        query = query + self.reading(self.norms[0](query), memory.tokens, memory.valid)
        return query + self.feed_forward(self.norms[1](query))


class QueryDecoder(nn.Module):
    """One query per phrase and frame, and its answers after every layer."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.mask_channels = config.mask_channels
        self.sentence = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(QueryLayer(config) for _ in range(config.query_layers))
        self.norm = nn.LayerNorm(dim)
        self.kernel = _kernel_head(dim, config.mask_channels)
        self.box = _perceptron(dim, 4)
        self.existence = nn.Linear(dim, 1)

    def forward(self, sentence: Tensor, memory: Memory, mask_features: Tensor, num_frames: int) -> Output:
        """Sentences [N, D], memory and mask features [N, C, h, w] of N = P*T pictures to the answers of P phrases.

        Earlier layers answer in training alone.
        """
        query = self.sentence(sentence)[:, None]
        answers = []
        for layer in self.layers:
            query = layer(query, memory)
            answers.append(query)
        kept = answers if self.training else answers[-1:]
        outputs = [self._answer(self.norm(answer[:, 0]), mask_features, num_frames) for answer in kept]
        outputs[-1].earlier = tuple(outputs[:-1])
        return outputs[-1]

    def _answer(self, query: Tensor, mask_features: Tensor, num_frames: int) -> Output:
        kernel = self.kernel(query).unflatten(-1, (SUBCELLS, -1))  # [N, 4, C+1]
        logits = kernel[..., :-1] @ mask_features.flatten(2) / self.mask_channels**0.5 + kernel[..., -1:]
        logits = functional.pixel_shuffle(logits.unflatten(-1, mask_features.shape[-2:]), 2)[
            :, 0
        ]  # [N, 2h, 2w]
        return Output(
            mask_logits=_by_phrase(logits, num_frames),
            class_logits=_by_phrase(self.existence(query), num_frames),
            boxes=_by_phrase(self.box(query).sigmoid(), num_frames),
        )


def _by_phrase(rows: Tensor, num_frames: int) -> Tensor:
    """[P*T, ...] to [P, 1, T, ...], in float32."""
    return rows.float().unflatten(0, (-1, num_frames))[:, None]


def _kernel_head(dim: int, channels: int) -> nn.Sequential:
    """To one weight per channel and a bias for every subcell; the biases start at `EMPTY_LOGIT`."""
    out = nn.Linear(dim, SUBCELLS * (channels + 1))
    with torch.no_grad():
        out.bias.view(SUBCELLS, -1)[:, -1] = EMPTY_LOGIT
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), out)


def _perceptron(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))
