"""Multi-scale deformable attention in plain torch, and the encoder layer made of it.

Source: "Deformable DETR" (Zhu et al., 2021), section 4.1. Departures: none in the result; no compiled extension, and
the values are gathered in one of two equal ways, whichever is faster on the device at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.feed_forward import FeedForward
from refseg.layers.precision import at_least_float32

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
        places, weights = self._points(query, reference, sizes)
        if not torch.compiler.is_compiling() and query.shape[1] * self.num_heads < tokens.shape[1]:
            return self.output_proj(self._read_then_project(tokens, places, weights, sizes, valid))
        values = _without_padding(self.value_proj(tokens), valid)
        return self.output_proj(_gather(values.unflatten(-1, (self.num_heads, -1)), places, weights, sizes))

    def _read_then_project(
        self, tokens: Tensor, places: Tensor, weights: Tensor, sizes: Sizes, valid: Tensor | None
    ) -> Tensor:
        """The same for few queries: what they read is projected, not all that they could have read.

        A column of ones is read along; it becomes the share of the bias, which neither padding nor the outside has.
        """
        rows = _without_padding(functional.pad(tokens, (0, 1), value=1.0), valid)
        by_head = places.flatten(1, 2)[:, :, None], weights.flatten(1, 2)[:, :, None]
        read = _gather(rows[:, :, None], *by_head, sizes).unflatten(1, (-1, self.num_heads))
        kernels = torch.cat([self.value_proj.weight, self.value_proj.bias[:, None]], dim=1)
        kernels = kernels.unflatten(0, (self.num_heads, -1))  # [heads, D, C + 1]
        return torch.einsum("nqhc,hdc->nqhd", read, kernels).flatten(2)

    def _points(self, query: Tensor, reference: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Float32 places [N, Q, heads, levels, points, 2], and weights without the last axis.

        A place is (x, y) in cells of its level, whose centres lie at whole numbers.
        """
        taps = (self.num_heads, self.num_levels, self.num_points)
        offsets = at_least_float32(self.sampling_offsets(query)).unflatten(-1, (*taps, 2))
        weights = at_least_float32(self.attention_weights(query))
        weights = _softmax(weights.unflatten(-1, (self.num_heads, -1)))
        extent = offsets.new_tensor([[w, h] for h, w in sizes])  # [levels, xy]
        centre = reference[..., :2].float() * extent - 0.5  # [N or 1, Q, levels, 2]
        if reference.shape[-1] == 4:
            reach = reference[..., 2:].float() * extent * (0.5 / self.num_points)
            offsets = offsets * reach[:, :, None, :, None]
        # Added as rows of all taps of a head: on a CPU, short last axes cost more than what is computed on them.
        centres = centre[:, :, None, :, None].expand(-1, -1, -1, -1, self.num_points, -1).flatten(3)
        places = (centres + offsets.flatten(3)).unflatten(-1, (*taps[1:], 2))
        return places, weights.unflatten(-1, taps[1:])


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; torch's own is slow on a CPU where that axis is short."""
    if scores.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return scores.softmax(-1)
    shares = (scores - scores.amax(-1, keepdim=True)).exp_()
    return shares.div_(shares.sum(-1, keepdim=True))


def _without_padding(rows: Tensor, valid: Tensor | None) -> Tensor:
    return rows if valid is None else rows.masked_fill(~valid[..., None], 0.0)


def _gather(values: Tensor, places: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Values [N, S, heads, D] at places, weighted and summed: [N, Q, heads * D]; see `_gather_rows`."""
    gather = _gather_rows if _prefers_rows(values) else _gather_maps
    return gather(values, places, weights, sizes)


def _prefers_rows(values: Tensor) -> bool:
    # On a CPU one bag of rows is several times as fast as sampling maps; the bag has no place in exported programs.
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def _gather_maps(values: Tensor, places: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sum of bilinear samples, level by level through `grid_sample`; shapes as in `_gather_rows`."""
    batch, queries, heads = places.shape[:3]
    extent = places.new_tensor([[w, h] for h, w in sizes])[:, None]
    grids = ((2 * places + 1) / extent - 1).transpose(1, 2).flatten(0, 1)  # [N*heads, Q, levels, points, 2]
    shares = (
        weights.transpose(1, 2).flatten(0, 1).to(values.dtype)[:, None]
    )  # [N*heads, 1, Q, levels, points]
    total = values.new_zeros(())
    for level, (part, (h, w)) in enumerate(zip(values.split(_areas(sizes), dim=1), sizes, strict=True)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        grid = grids[:, :, level].to(maps.dtype)
        samples = functional.grid_sample(
            maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        total = total + (samples * shares[:, :, :, level]).sum(-1)  # [N*heads, D, Q]
    return total.view(batch, -1, queries).transpose(1, 2)


MARGIN = 3  # rows and columns of zeros around a map: one before, two after


def _gather_rows(values: Tensor, places: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sum of bilinear samples as one bag of value rows per query and head.

    Every map gets a margin of zeros, and places beyond it are moved onto it, so that no tap has to be checked: the cell
    before a place is at worst in the margin, and the one after it has no share where it would be outside.

    Shapes:
        values: [N, S, heads, D]; places: [N, Q, heads, levels, points, 2]; weights: without the last axis.
        returns: [N, Q, heads * D].
    """
    batch, _, heads = values.shape[:3]
    levels = zip(values.split(_areas(sizes), dim=1), sizes, strict=True)
    rows = torch.cat([_with_margin(part, size) for part, size in levels], dim=1)
    # What is no number is not above -1 and becomes it: a diverging run fails at its loss, not here.
    beyond = places.new_tensor([[w, h] for h, w in sizes])[:, None].expand(-1, places.shape[-2], -1)
    flat = places.flatten(3)
    bounded = torch.where(flat > -1.0, flat, -1.0).minimum(beyond.flatten())
    x, y = bounded.unflatten(-1, (-1, 2)).unbind(-1)  # [N, Q, heads, levels*points]
    left, top = x.detach().floor(), y.detach().floor()
    layout = _Layout(sizes, heads=heads, num_points=places.shape[-2], like=x)
    bags = functional.embedding_bag(
        layout.taps(left, top, per_image=rows.shape[1]).flatten(0, 2).flatten(1),  # [N*Q*heads, taps]
        rows.flatten(0, 2),
        mode="sum",
        per_sample_weights=_shares(x - left, y - top, weights.flatten(3))
        .flatten(0, 2)
        .flatten(1)
        .to(values.dtype),
    )
    return bags.view(batch, places.shape[1], -1)


def _shares(right: Tensor, down: Tensor, weights: Tensor) -> Tensor:
    """What the four cells around each place give: [..., 4, K] of how far right and down it lies, and its weight [..., K]."""
    below = weights * down
    above = weights - below
    above_right, below_right = above * right, below * right
    return torch.stack([above - above_right, above_right, below - below_right, below_right], dim=-2)


def _with_margin(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values [N, h*w, heads, D] of one level to [N, (h+3)*(w+3), heads, D]."""
    maps = values.flatten(2).unflatten(1, size)
    return functional.pad(maps, (0, 0, 1, 2, 1, 2)).flatten(1, 2).unflatten(-1, values.shape[2:])


class _Layout:
    """Where the values of padded maps stand, in rows of one head each; numbers per tap, K = levels * points of them."""

    def __init__(self, sizes: Sizes, *, heads: int, num_points: int, like: Tensor) -> None:
        self.heads = heads
        widths = torch.tensor([w + MARGIN for _, w in sizes])
        padded = torch.tensor([(h + MARGIN) * (w + MARGIN) for h, w in sizes])
        starts = padded.cumsum(0) - padded + widths + 1  # of the cell (0, 0), past the margin
        self.widths = widths.repeat_interleave(num_points).to(like)
        self.starts = starts.repeat_interleave(num_points).to(like)
        one = torch.ones_like(widths)
        steps = torch.stack([0 * one, one, widths, widths + 1]) * heads  # to the four cells around a place
        self.steps = steps.repeat_interleave(num_points, dim=1).to(like.device, torch.int32)  # [4, K]

    def taps(self, left: Tensor, top: Tensor, *, per_image: int) -> Tensor:
        """Row numbers [N, Q, heads, 4, K] int32 of the cells around places, from the one above and to the left."""
        device = left.device
        images = torch.arange(len(left), dtype=torch.int32, device=device)[:, None, None, None] * (
            per_image * self.heads
        )
        head = torch.arange(self.heads, dtype=torch.int32, device=device)[:, None]
        # Whole numbers below 2^24, so exact in float32.
        first = (top * self.widths + (left + self.starts)).to(torch.int32) * self.heads + (images + head)
        return first[..., None, :] + self.steps


def _areas(sizes: Sizes) -> list[int]:
    return [h * w for h, w in sizes]


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
        return self.feed_forward(self.look(tokens, position, reference, sizes, valid))

    def look(
        self, tokens: Tensor, position: Tensor, reference: Tensor, sizes: Sizes, valid: Tensor | None = None
    ) -> Tensor:
        """The first half: the tokens after they have looked at each other."""
        read = self.attention(tokens + position, reference, tokens, sizes, valid)
        return self.norm(tokens + self.dropout(read))
