"""Multi-head attention whose keys may be padding; always fused, so that weights are never materialised."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int,
    valid: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of projected queries over projected keys, head by head.

    Shapes:
        query: [N, Q, C]; key, value: [N, S, C], C = heads x width of a head, heads first.
        valid: [N, S], or [N, Q, S] where queries differ: bool, True on keys that may be looked at, of which every query
            needs one; or float, added to the scores before the softmax.
        returns: [N, Q, C].
    """
    queries, keys, values = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    allowed = valid
    if valid is not None:
        allowed = valid[:, None, None] if valid.ndim == 2 else valid[:, None]
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=allowed, dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention with its four projections; names and shapes of `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout  # on the attention weights
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None) -> Tensor:
        """Queries [N, Q, C] mixed from values [N, S, C]; see `attend`."""
        if self._folds(query, key, valid):
            return self._folded(query, key, value, valid)
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        projected = [
            functional.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True)
        ]
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(*projected, num_heads=self.num_heads, valid=valid, dropout=dropout))

    def shares(self, query: Tensor, key: Tensor, valid: Tensor | None = None) -> Tensor:
        """How much of each key [N, S, C] a query [N, Q, C] takes, [N, Q, S], a mean over the heads; for people to look at."""
        heads = self.num_heads
        queries, keys = (
            functional.linear(tokens, self.in_proj_weight.chunk(3)[i], self.in_proj_bias.chunk(3)[i])
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for i, tokens in ((0, query), (1, key))
        )
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
        return scores.softmax(-1).mean(1)

    def _folds(self, query: Tensor, key: Tensor, valid: Tensor | None = None) -> bool:
        if valid is not None and (valid.ndim != 2 or valid.dtype != torch.bool):
            return False
        if self.training or torch.compiler.is_compiling():
            return False
        return key.shape[1] < query.shape[1] and key.shape[1] * self.num_heads <= query.shape[2]

    def _folded(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
        asked, *told = (
            Projection(*parts)
            for parts in zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        )
        keys, values = (projection(tokens) for projection, tokens in zip(told, (key, value), strict=True))
        return attend_few_keys(
            query, asked, keys, values, self.out_proj, num_heads=self.num_heads, valid=valid
        )


class CrossAttention(nn.Module):
    """Attention over keys of another width; names and shapes of `torch.nn.MultiheadAttention` with `kdim` and `vdim`.

    Whichever side is few, the other is not projected: few keys ask with the queries' projection folded into them, and
    few queries with that of the keys and of the values.
    """

    def __init__(self, dim: int, key_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj_weight = nn.Parameter(torch.empty(dim, dim))
        self.k_proj_weight = nn.Parameter(torch.empty(dim, key_dim))
        self.v_proj_weight = nn.Parameter(torch.empty(dim, key_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        for weight in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight, self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None) -> Tensor:
        """Queries [N, Q, C] mixed from values [N, S, K]; `valid` [N, S] bool, True on keys that may be looked at."""
        weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        asking, telling, giving = (
            Projection(*parts) for parts in zip(weights, self.in_proj_bias.chunk(3), strict=True)
        )
        heads = self.num_heads
        if query.shape[1] <= key.shape[1]:
            mixed = attend_few_queries(
                asking(query), key, value, telling, giving, num_heads=heads, valid=valid
            )
            return self.out_proj(mixed)
        return attend_few_keys(
            query, asking, telling(key), giving(value), self.out_proj, num_heads=heads, valid=valid
        )


class Projection(NamedTuple):
    """A linear layer as its two tensors."""

    weight: Tensor  # [C', C]
    bias: Tensor  # [C']

    def __call__(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C']."""
        return functional.linear(x, self.weight, self.bias)


def attend_few_keys(
    query: Tensor,
    asking: Projection,
    keys: Tensor,
    values: Tensor,
    out: nn.Linear,
    *,
    num_heads: int,
    valid: Tensor | None = None,
) -> Tensor:
    """Attention over few keys: what is linear before and after the weights is done to keys and values.

    A score is (W_q x + b) . k = x . (W_q^T k) + b . k, and the output projection of a mean is the mean of projected
    values; so no query is projected, and the numbers per query are heads * S instead of C.

    Shapes:
        query: [N, Q, C], before its projection `asking`; keys, values: [N, S, C], after theirs.
        returns: [N, Q, C], after the projection `out`.
    """
    heads, count = num_heads, keys.shape[1]
    keys, values = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (keys, values)
    )  # [N, heads, S, D]
    keys = keys * keys.shape[-1] ** -0.5
    asked = keys @ asking.weight.unflatten(0, (heads, -1))  # [N, heads, S, C]
    shift = keys @ asking.bias.view(heads, -1, 1)  # [N, heads, S, 1]
    if valid is not None:
        shift = shift.masked_fill(~valid[:, None, :, None], -torch.inf)
    given = values @ out.weight.t().unflatten(0, (heads, -1))  # [N, heads, S, C]
    scores = torch.baddbmm(shift.flatten(1)[:, None], query, asked.flatten(1, 2).transpose(1, 2))
    shares = scores.unflatten(-1, (heads, count)).softmax(-1).flatten(-2)  # [N, Q, heads * S]
    return torch.baddbmm(out.bias, shares, given.flatten(1, 2))


def attend_few_queries(
    queries: Tensor,
    key: Tensor,
    value: Tensor,
    telling: Projection,
    giving: Projection,
    *,
    num_heads: int,
    valid: Tensor | None = None,
) -> Tensor:
    """Attention of few queries: no key and no value is projected, only the queries and what they read.

    The keys' bias adds the same to all scores of a query, and so nothing.

    Shapes:
        queries: [N, Q, C], after their projection; key, value: [N, S, K], before theirs, `telling` and `giving`.
        returns: [N, Q, C].
    """
    heads = num_heads
    by_head = queries.unflatten(-1, (heads, -1)).transpose(1, 2)  # [N, heads, Q, D]
    asked = (by_head * by_head.shape[-1] ** -0.5) @ telling.weight.unflatten(
        0, (heads, -1)
    )  # [N, heads, Q, K]
    scores = (asked.flatten(1, 2) @ key.transpose(1, 2)).unflatten(1, (heads, -1))  # [N, heads, Q, S]
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
    read = (scores.softmax(-1).flatten(1, 2) @ value).unflatten(1, (heads, -1))  # [N, heads, Q, K]
    given = read @ giving.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # [N, heads, Q, D]
    return given.transpose(1, 2).flatten(2) + giving.bias
