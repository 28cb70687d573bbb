"""Multi-head attention whose keys may be padding; always fused, so that weights are never materialised."""

from __future__ import annotations

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
        valid: [N, S] bool, True on keys that may be looked at; every row needs one.
        returns: [N, Q, C].
    """
    queries, keys, values = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    allowed = None if valid is None else valid[:, None, None, :]
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
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        projected = [
            functional.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True)
        ]
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(*projected, num_heads=self.num_heads, valid=valid, dropout=dropout))
