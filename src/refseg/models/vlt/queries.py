"""Encoder and decoder, with the activation that VLT has on all four projections of every attention.

Source: the published program, which takes them from keras-transformer.

Queries made from picture and phrase, and how much each of their answers counts.

Source: sections 3.2 (query generation) and 3.3 (query balance) of the paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.backbone import ConvNorm, KerasLayerNorm, dense, dense_normal


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


COORDINATES = 6  # channels: three times the column, three times the row


class QueryGeneration(nn.Module):
    """Several readings of one phrase: what the picture makes important, said with the phrase's words."""

    def __init__(
        self, channels: int, *, phrase_dim: int, dim: int, num_heads: int, num_queries: int, cells: int
    ) -> None:
        super().__init__()
        wide = channels + COORDINATES
        self.convs = nn.Sequential(*(ConvNorm(wide, wide, 3) for _ in range(3)))
        self.maps = nn.Conv2d(wide, num_queries, 1)
        self.cells = dense(cells, dim)
        self.words = dense(phrase_dim, dim)
        self.query, self.key, self.value = (dense(dim, dim) for _ in range(3))
        self.attention = ReluAttention(dim, num_heads)

    def look(self, fused: Tensor) -> Tensor:
        """Where each query looks: [N, Q, G, G] of fused maps [N, C, G, G]."""
        return self.maps(self.convs(torch.cat([fused, _coordinates(fused)], dim=1)))

    def visual(self, maps: Tensor) -> Tensor:
        """[N, Q, D]: each query's map as one vector."""
        return functional.relu(self.cells(maps.flatten(2)))

    def speak(self, words: Tensor) -> Tensor:
        """[N, L, D]: the states of words [N, L, U] at the transformer's width."""
        return functional.relu(self.words(words))

    def mix(self, visual: Tensor, words: Tensor) -> Tensor:
        """[N, Q, D]: for each visual query, the words that go with it."""
        return self.attention(*self._asked(visual, words))

    def shares(self, visual: Tensor, words: Tensor) -> Tensor:
        """[N, Q, L]: how much each query takes from each word."""
        query, key, _ = self._asked(visual, words)
        return self.attention.shares(query, key)

    def _asked(self, visual: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Published behaviour: a dense layer with a ReLU here, and the attention's own with a ReLU after it.
        placed, told = with_positions(visual), with_positions(words)
        return (
            functional.relu(self.query(placed)),
            functional.relu(self.key(told)),
            functional.relu(self.value(told)),
        )


class QueryBalance(nn.Module):
    """A weight in [0, 1] for each query's answer, and the answers as maps."""

    def __init__(self, dim: int, cells: int) -> None:
        super().__init__()
        self.query, self.answer = dense(dim, dim), dense(dim, dim)
        self.both = dense(2 * dim, dim)
        self.weight = dense(dim, 1)
        self.maps = dense(dim, cells)

    def weigh(self, queries: Tensor, answers: Tensor) -> Tensor:
        """[N, Q, 1] of queries and the decoder's answers to them [N, Q, D]."""
        pair = [functional.relu(self.answer(answers)), functional.relu(self.query(queries))]
        return self.weight(functional.relu(self.both(torch.cat(pair, dim=-1)))).sigmoid()

    def respond(self, weights: Tensor, answers: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, Q, G, G]: the answers, each as much as it counts, as maps of `grid` cells."""
        return functional.relu(self.maps(weights * answers)).unflatten(-1, grid)


def _coordinates(maps: Tensor) -> Tensor:
    """[N, 6, G, G] from -1 to 1: x three times, then y three times."""
    count, _, height, width = maps.shape
    x = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)[:, None].expand(height, width)
    return torch.stack([x, x, x, y, y, y]).expand(count, -1, -1, -1)
