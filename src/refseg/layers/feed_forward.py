"""Layers that treat every token alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.chunking import row_steps

TOKENS_AT_ONCE = 2048  # measured; hidden values of one step are 16 MB at the published width of 2048


class MLP(nn.Module):
    """Linear layers of the widths given, ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., first width] to [..., last width]."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x), inplace=True)
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """The second half of a post-norm transformer layer: tokens plus a two-layer ReLU network of them, normalised."""

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N, S, C] to the same shape; without gradients in steps, so that hidden values stay small."""
        flat = tokens.flatten(0, 1)
        parts = [self._refine(flat[rows]) for rows in row_steps(len(flat), TOKENS_AT_ONCE)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(tokens)

    def _refine(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(functional.relu(self.linear1(tokens), inplace=True))
        return self.norm(tokens + self.dropout(self.linear2(hidden)))
