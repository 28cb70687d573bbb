"""Encoder and decoder, with the activation that VLT has on all four projections of every attention.

Source: the published program, which takes them from keras-transformer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.blocks import KerasLayerNorm, dense_normal


def with_positions(tokens: Tensor) -> Tensor:
    """Tokens [N, L, C] plus sine (even channels) and cosine (odd channels) of their place, which counts from 0."""
    length, channels = tokens.shape[1:]
    place = torch.arange(length, device=tokens.device, dtype=torch.float64)
    pair = torch.arange(channels // 2, device=tokens.device, dtype=torch.float64)
    angles = place[:, None] * torch.exp(pair * (-2 * math.log(10_000.0) / channels))
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # [L, C]
    return tokens + waves.to(tokens.dtype)


class ReluAttention(nn.Module):
    """Multi-head attention.

    Published behaviour: queries, keys, values and the output all pass a ReLU.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (dense_normal(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
        """[N, Q, C] from keys and values [N, S, C]; `causal` lets query i see keys up to i alone."""
        queries, keys, values = self._heads(query, key, value)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
        return functional.relu(self.out(mixed.transpose(1, 2).flatten(2)))

    def shares(self, query: Tensor, key: Tensor) -> Tensor:
        """How much of each key [N, S, C] a query [N, Q, C] takes, [N, Q, S], averaged over the heads."""
        queries, keys, _ = self._heads(query, key, key)
        return (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1).mean(1)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Projected and cut into contiguous groups of channels: [N, heads, *, C / heads] each."""
        layers = zip((self.query, self.key, self.value), (query, key, value), strict=True)
        projected = (functional.relu(layer(tokens)) for layer, tokens in layers)
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected]


class FeedForward(nn.Module):
    """Two dense layers. Published behaviour: the inner one is as wide as the tokens, not four times."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = dense_normal(dim, dim), dense_normal(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L, C] to the same shape."""
        return self.linear2(functional.relu(self.linear1(tokens)))


class EncoderLayer(nn.Module):
    """Cells look at each other; every step is added and normalised."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = ReluAttention(dim, num_heads)
        self.attention_norm = KerasLayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.feed_forward_norm = KerasLayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor) -> Tensor:
        """[N, S, C] to the same shape."""
        cells = self.attention_norm(cells + self.dropout(self.attention(cells, cells, cells)))
        return self.feed_forward_norm(cells + self.dropout(self.feed_forward(cells)))


class DecoderLayer(nn.Module):
    """Queries look at earlier queries, then at the cells; every step is added and normalised."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attention = ReluAttention(dim, num_heads)
        self.self_norm = KerasLayerNorm(dim)
        self.cross_attention = ReluAttention(dim, num_heads)
        self.cross_norm = KerasLayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.feed_forward_norm = KerasLayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def among_queries(self, queries: Tensor) -> Tensor:
        """The first step: [N, Q, C] to the same shape.

        Published behaviour: the attention is causal over the queries, though their order means nothing.
        """
        mixed = self.self_attention(queries, queries, queries, causal=True)
        return self.self_norm(queries + self.dropout(mixed))

    def forward(self, queries: Tensor, cells: Tensor) -> Tensor:
        """[N, Q, C] and cells [N, S, C], to the queries' shape."""
        queries = self.among_queries(queries)
        queries = self.cross_norm(queries + self.dropout(self.cross_attention(queries, cells, cells)))
        return self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries)))
