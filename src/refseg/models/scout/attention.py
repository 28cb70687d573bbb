"""Attention with a `valid` mask, and the pre-norm transformer layer built on it.

The word encoder: embeddings of a closed vocabulary and a small transformer over them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from refseg.encoders.tokenizers.closed_vocabulary import PADDING
from refseg.models.scout.config import ScoutConfig


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    valid: Tensor | None,
    *,
    head_dim: int,
    bias: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Multi-head softmax attention, without projections.

    All heads go through one matrix product each way: keys and values are laid out with zeros outside their head, which
    costs a few multiplications and saves every transposition of the many queries. Meant for memories of at most a few
    hundred tokens.

    Shapes:
        queries: [N, A, D]; keys, values: [N, K, D]; valid: [N, K] bool or None; D = heads * head_dim.
        bias: from the laid-out keys [N, heads*K, D] to a term added to the scores, [N, A, heads*K].
        returns: [N, A, D].
    """
    heads = queries.shape[-1] // head_dim
    laid_keys, laid_values = _lay_out(keys * head_dim**-0.5, heads), _lay_out(values, heads)
    scores = queries @ laid_keys.transpose(1, 2)  # [N, A, heads*K]
    if bias is not None:
        scores = scores + bias(laid_keys)
    scores = scores.unflatten(-1, (heads, -1))
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
    return scores.softmax(-1).flatten(2).to(laid_values.dtype) @ laid_values


def _lay_out(tokens: Tensor, heads: int) -> Tensor:
    """[N, K, D] to [N, heads*K, D]: once per head, zero outside the head's channels."""
    own = torch.eye(heads, dtype=tokens.dtype, device=tokens.device).repeat_interleave(
        tokens.shape[-1] // heads, 1
    )
    return (tokens[:, None] * own[:, None]).flatten(1, 2)


class SelfAttention(nn.Module):
    """Every token attends to every valid token."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Tokens [N, A, D] with valid [N, A] to [N, A, D]."""
        queries, keys, values = self.project(tokens).chunk(3, dim=-1)
        return self.out(attend(queries, keys, values, valid, head_dim=self.head_dim))


class CrossAttention(nn.Module):
    """Queries attend to the valid tokens of a memory."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.queries = nn.Linear(dim, dim)
        self.memory = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, valid: Tensor | None) -> Tensor:
        """Queries [N, A, D] and memory [N, K, D] with valid [N, K] to [N, A, D]."""
        keys, values = self.memory(memory).chunk(2, dim=-1)
        return self.out(attend(self.queries(queries), keys, values, valid, head_dim=self.head_dim))


def feed_forward(dim: int, inner_dim: int) -> nn.Sequential:
    """Two linear maps around a GELU."""
    return nn.Sequential(nn.Linear(dim, inner_dim), nn.GELU(), nn.Linear(inner_dim, dim))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised first and added."""

    def __init__(self, dim: int, head_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attention = SelfAttention(dim, head_dim)
        self.feed_forward = feed_forward(dim, inner_dim)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Tokens [N, A, D] with valid [N, A] to [N, A, D]."""
        tokens = tokens + self.attention(self.norms[0](tokens), valid)
        return tokens + self.feed_forward(self.norms[1](tokens))


class WordEncoder(nn.Module):
    """Word ids to word features that know the rest of the phrase."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.words = nn.Embedding(len(config.vocabulary) + 1, dim, padding_idx=PADDING)
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_tokens, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, config.head_dim, 2 * dim) for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [P, L] with valid [P, L] to tokens [P, L, D] and their mean [P, D]."""
        tokens = self.words(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, valid)
        tokens = self.norm(tokens) * valid[..., None]
        return tokens, tokens.sum(1) / valid.sum(1, keepdim=True)
