"""Multi-scale deformable attention in plain torch, and the encoder layer made of it.

Source: "Deformable DETR" (Zhu et al., 2021), section 4.1. Departures: none in the result; no compiled extension, and
the values are gathered in one of two equal ways, whichever is faster on the device at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.feed_forward import FeedForward

Sizes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Each query looks at a few points of every level: where, and how much at each, it says itself."""

    def __init__(self, dim: int, *, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        taps = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, taps * 2)
        self.attention_weights = nn.Linear(dim, taps)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: every head looks in a direction of its own, point k at k cells, all with equal weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        star = torch.stack([angles.cos(), angles.sin()], dim=-1)
        star = star / star.abs().amax(-1, keepdim=True)  # [heads, xy]
        steps = torch.arange(1, self.num_points + 1, dtype=star.dtype)
        offsets = (star[:, None, None, :] * steps[:, None]).expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, tokens: Tensor, sizes: Sizes, valid: Tensor | None = None
    ) -> Tensor:
        """What the queries read from the levels.

        Shapes:
            query: [N, Q, C].
            reference: [N or 1, Q, levels or 1, 2 or 4], in [0, 1] of each level's map; x, y, or x, y, width, height,
                whose halves the offsets are then shares of.
            tokens: [N, S, C], the levels one after the other, rows first; `sizes` are their (h, w).
            valid: [N or 1, S] bool; the values of other tokens count as zero.
            returns: [N, Q, C].
        """
        values = self.value_proj(tokens)
        if valid is not None:
            values = values.masked_fill(~valid[..., None], 0.0)
        values = values.unflatten(-1, (self.num_heads, -1))  # [N, S, heads, D]
        locations, weights = self._points(query, reference, sizes)
        gather = _gather_rows if _prefers_rows(values) else _gather_maps
        return self.output_proj(gather(values, locations, weights, sizes))

    def _points(self, query: Tensor, reference: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Float32 locations [N, Q, heads, levels, points, 2] in [0, 1], and weights without the last axis."""
        taps = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).float().unflatten(-1, (*taps, 2))
        weights = self.attention_weights(query).float().unflatten(-1, (self.num_heads, -1)).softmax(-1)
        around = reference.float()[:, :, None, :, None, :]  # [N or 1, Q, 1, levels or 1, 1, 2 or 4]
        if reference.shape[-1] == 2:
            extent = offsets.new_tensor([[w, h] for h, w in sizes]).view(-1, 1, 2)
            locations = around + offsets / extent
        else:
            locations = around[..., :2] + offsets / self.num_points * around[..., 2:] * 0.5
        return locations, weights.unflatten(-1, taps[1:])


def _prefers_rows(values: Tensor) -> bool:
    # On a CPU one bag of rows is more than twice as fast as sampling maps; the bag has no place in exported programs.
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def _gather_maps(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sum of bilinear samples, level by level through `grid_sample`; shapes as in `_gather_rows`."""
    batch, queries, heads = locations.shape[:3]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [N*heads, Q, levels, points, 2]
    shares = (
        weights.transpose(1, 2).flatten(0, 1).to(values.dtype)[:, None]
    )  # [N*heads, 1, Q, levels, points]
    total: Tensor | float = 0.0
    for level, (part, (h, w)) in enumerate(
        zip(values.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        grid = grids[:, :, level].to(maps.dtype)
        samples = functional.grid_sample(
            maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        total = total + (samples * shares[:, :, :, level]).sum(-1)  # [N*heads, D, Q]
    return total.view(batch, -1, queries).transpose(1, 2)


@dataclass(slots=True)
class _Side:
    """One of the two cells that a coordinate lies between, along one axis."""

    cell: Tensor  # float, inside the map
    share: Tensor  # of the sample; zero outside the map


def _sides(position: Tensor, extent: Tensor) -> tuple[_Side, _Side]:
    """The cells before and after `position` (in cells, centres at whole numbers) on an axis of `extent` cells."""
    lower = position.floor()
    beyond = position - lower
    last = extent - 1
    first = _Side(lower.clamp(min=0).minimum(last), (1 - beyond) * ((lower >= 0) & (lower <= last)))
    upper = lower + 1
    return first, _Side(upper.clamp(min=0).minimum(last), beyond * ((upper >= 0) & (upper <= last)))


def _gather_rows(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sum of bilinear samples as one bag of value rows per query and head.

    Shapes:
        values: [N, S, heads, D]; locations: [N, Q, heads, levels, points, 2]; weights: without the last axis.
        returns: [N, Q, heads * D].
    """
    batch, cells, heads = values.shape[:3]
    queries = locations.shape[1]
    extent = locations.new_tensor([[w, h] for h, w in sizes])  # [levels, xy]
    areas = extent.prod(-1)
    first_cell = (areas.cumsum(0) - areas).view(-1, 1)
    place = locations * extent.view(-1, 1, 2) - 0.5
    columns = _sides(place[..., 0], extent[:, :1])
    rows = _sides(place[..., 1], extent[:, 1:])
    tokens = torch.stack(
        [y.cell * extent[:, :1] + (x.cell + first_cell) for y in rows for x in columns], dim=-1
    )
    shares = torch.stack([y.share * weights * x.share for y in rows for x in columns], dim=-1)
    owners = torch.arange(batch, device=values.device)[:, None, None, None] * (cells * heads)
    owners = owners + torch.arange(heads, device=values.device)[:, None]  # [N, 1, heads, 1]
    index = tokens.flatten(3).to(torch.int32) * heads + owners.to(torch.int32)
    bags = functional.embedding_bag(
        index.flatten(0, 2),  # [N*Q*heads, taps]
        values.reshape(batch * cells * heads, -1),
        mode="sum",
        per_sample_weights=shares.flatten(3).flatten(0, 2).to(values.dtype),
    )
    return bags.view(batch, queries, -1)


class DeformableEncoderLayer(nn.Module):
    """One post-norm encoder layer: deformable attention of the tokens among themselves, then a feed-forward network."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_levels: int,
        num_points: int,
        hidden_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(
            dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, position: Tensor, reference: Tensor, sizes: Sizes, valid: Tensor | None = None
    ) -> Tensor:
        """Tokens [N, S, C] to the same shape; `position` [N or 1, S, C], the rest as in DeformableAttention."""
        read = self.attention(tokens + position, reference, tokens, sizes, valid)
        return self.feed_forward(self.norm(tokens + self.dropout(read)))
