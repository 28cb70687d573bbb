"""The word encoder: embeddings of a closed vocabulary and a small transformer over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg.encoders.words import PADDING

from .attention import EncoderLayer
from .config import ScoutConfig


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
