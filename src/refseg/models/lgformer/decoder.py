"""The phrase, refined by what it reads in the picture, becomes the weights of a convolution whose answer is the mask.

Source: sections 3.1 and 3.4 of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from refseg.layers.attention import CrossAttention
from refseg.layers.feed_forward import MLP, FeedForward
from refseg.models.lgformer.config import LGFormerConfig
from refseg.models.lgformer.pixel_decoder import NUM_LEVELS, Places

FEWEST = 1e-6  # tokens that a mean is over, at least


class DecoderLayer(nn.Module):
    """The query reads one level, and is refined."""

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__()
        width = config.text.width
        self.attention = CrossAttention(width, config.dim, config.num_heads)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.decoder_hidden_dim)
        for layer in (self.feed_forward.linear1, self.feed_forward.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, query: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [N, 1, D] to the same shape; keys and values [N, S, C]."""
        read = self.attention(query + position, keys, values)
        return self.feed_forward(self.norm(query + read))


class QueryDecoder(nn.Module):
    """The words as one query, its refinement level by level, and the head that every state of it goes through."""

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__()
        width = config.text.width
        self.text_projection = nn.Linear(width, width)
        self.query_embed = nn.Embedding(1, width)
        self.level_embed = nn.Embedding(NUM_LEVELS, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.head = MLP([width, width, width, config.dim + 1])

    def forward(self, words: Tensor, valid: Tensor, memory: Sequence[Tensor], places: Places) -> list[Tensor]:
        """The query [N, 1, D] before the first layer and after each.

        Shapes:
            words: [N, L, D], zero where not valid; memory: [N, h*w, C] of each level, coarsest first.
        """
        count = valid.sum(-1, keepdim=True).to(words.dtype).clamp(min=FEWEST)
        query = self.text_projection(words.sum(1) / count)[:, None]
        values = [level + self.level_embed.weight[number] for number, level in enumerate(memory)]
        keys = [value + code for value, code in zip(values, places.position, strict=True)]
        states = [query]
        for number, layer in enumerate(self.layers):
            level = number % NUM_LEVELS
            query = layer(query, self.query_embed.weight, keys[level], values[level])
            states.append(query)
        return states

    def weights(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of Q states of the query [N, 1, D], the weights [N, Q, C] and biases [N, Q] of their masks."""
        told = self.head(torch.cat(list(states), dim=1))
        return told[..., :-1], told[..., -1]
