"""Words into maps, maps into a memory, the phrase into candidate queries. Every frame is on its own here.

Source: sections 3.2 and 3.3 of the paper. Departure: the published decoder also gathers sampling points to draw them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import Attention
from refseg.layers.deformable import DeformableAttention, DeformableEncoderLayer
from refseg.layers.feed_forward import MLP, FeedForward
from refseg.models.referformer.config import ReferFormerConfig
from refseg.models.referformer.levels import Levels

NUM_LEVELS = 4  # strides 8, 16, 32 and 64
FUSION_HEADS = 8  # whatever the transformer's own number is
REFERENCE_EPS = 1e-5  # keeps the inverse sigmoid of a reference finite
UNLIKELY = 0.01  # initial score of every class


@dataclass(slots=True)
class Words:
    """The words of P phrases as keys and values."""

    keys: Tensor  # [P, L, C] features plus position
    values: Tensor  # [P, L, C] features
    valid: Tensor  # [P, L]
    sentence: Tensor  # [P, C]

    def rows(self, index: Tensor) -> Words:
        """The rows that `index` names, so that every frame has the words of its phrase."""
        return Words(self.keys[index], self.values[index], self.valid[index], self.sentence[index])


@dataclass(slots=True)
class Candidates:
    """What one decoder layer says of the candidate queries of N frames."""

    states: Tensor  # [N, Q, C]
    class_logits: Tensor  # [N, Q, K]
    boxes: Tensor  # [N, Q, 4] cxcywh in [0, 1] of the content
    reference: Tensor  # [N, Q, 2 or 4] where each query looks after this layer

    def only(self, query: Tensor) -> Candidates:
        """One query [N] of each frame, as the only one."""
        rows = torch.arange(len(query), device=query.device)
        return Candidates(*(part[rows, query][:, None] for part in self._parts()))

    @staticmethod
    def join(parts: Sequence[Candidates]) -> Candidates:
        """The candidates of consecutive frames as one."""
        return Candidates(*(torch.cat(same) for same in zip(*(part._parts() for part in parts), strict=True)))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.states, self.class_logits, self.boxes, self.reference


class Fusion(nn.Module):
    """Early fusion: tokens times what they read from the words; no residual and no normalisation, as published."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, FUSION_HEADS)

    def forward(self, tokens: Tensor, words: Words) -> Tensor:
        """Tokens [N, S, C] of every level, words of N rows; to the tokens' shape."""
        return tokens * self.attention(tokens, words.keys, words.values, words.valid)


class Encoder(nn.Module):
    """Deformable encoder over all levels of a frame."""

    def __init__(self, config: ReferFormerConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, config.dim))
        self.layers = nn.ModuleList(_encoder_layer(config) for _ in range(config.num_encoder_layers))

    def forward(self, tokens: Tensor, levels: Levels) -> Tensor:
        """Tokens [N, S, C] and the levels of N rows; to the memory [N, S, C]."""
        counts = torch.tensor(levels.areas, device=tokens.device)
        embed = self.level_embed.repeat_interleave(counts, dim=0, output_size=tokens.shape[1])
        position = levels.position.to(tokens.dtype) + embed
        for layer in self.layers:
            tokens = layer(tokens, position, levels.reference, levels.sizes, levels.valid)
        return tokens


class DecoderLayer(nn.Module):
    """Queries of a frame look at each other, then at the memory, then at themselves."""

    def __init__(self, config: ReferFormerConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.dim, config.num_heads, dropout=config.dropout)
        self.self_norm = nn.LayerNorm(config.dim)
        self.cross_attention = DeformableAttention(
            config.dim,
            num_heads=config.num_heads,
            num_levels=NUM_LEVELS,
            num_points=config.num_decoder_points,
        )
        self.cross_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        initialise_matrices(self.self_attention)
        initialise_matrices(self.feed_forward)

    def forward(
        self, states: Tensor, position: Tensor, reference: Tensor, memory: Tensor, levels: Levels
    ) -> Tensor:
        """States [N, Q, C] to the same shape; `reference` [N, Q, levels, 2 or 4] on each level's map."""
        placed = states + position
        states = self.self_norm(states + self.dropout(self.self_attention(placed, placed, states)))
        read = self.cross_attention(states + position, reference, memory, levels.sizes, levels.valid)
        return self.feed_forward(self.cross_norm(states + self.dropout(read)))


class Decoder(nn.Module):
    """The phrase, repeated as the content of every candidate query, looks for its object; with the heads of each layer.

    With box refinement every layer has heads of its own, and its box is the next layer's reference; without, one class
    head and one box head serve all layers, and the initial references stay.
    """

    def __init__(self, config: ReferFormerConfig) -> None:
        super().__init__()
        self.refines_boxes = config.refines_boxes
        self.query_embed = nn.Embedding(config.num_queries, config.dim)
        self.reference_points = nn.Linear(config.dim, 2)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        num_heads = config.num_decoder_layers if config.refines_boxes else 1
        self.class_heads = nn.ModuleList(_class_head(config) for _ in range(num_heads))
        first = _box_head(config)
        self.box_heads = nn.ModuleList(
            [_with_small_boxes(first), *(copy.deepcopy(first) for _ in range(num_heads - 1))]
        )
        initialise_matrices(self.reference_points)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Tensor, levels: Levels, sentence: Tensor) -> list[Candidates]:
        """Memory [N, S, C] of N frames, the levels and sentences [N, C] of N rows; first layer first."""
        position = self.query_embed.weight  # [Q, C]
        reference = self.reference_points(position).float().sigmoid().expand(len(memory), -1, -1)
        states = sentence[:, None].expand(-1, len(position), -1)
        told = []
        for index, layer in enumerate(self.layers):
            ratios = levels.ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None]
            on_maps = reference[:, :, None] * ratios  # [N, Q, levels, 2 or 4]
            states = layer(states, position, on_maps, memory, levels)
            head = index if self.refines_boxes else 0
            boxes = self._boxes(head, states, reference)
            # References learn through the first layer only: what refinement hands on is cut from the graph.
            reference = boxes.detach() if self.refines_boxes else reference
            told.append(Candidates(states, self.class_heads[head](states).float(), boxes, reference))
        return told

    def _boxes(self, head: int, states: Tensor, reference: Tensor) -> Tensor:
        shifts = self.box_heads[head](states).float()
        around = inverse_sigmoid(reference)
        # A reference without a size moves the centre alone.
        return (shifts + functional.pad(around, (0, 4 - around.shape[-1]))).sigmoid()


def _encoder_layer(config: ReferFormerConfig) -> DeformableEncoderLayer:
    layer = DeformableEncoderLayer(
        config.dim,
        num_heads=config.num_heads,
        num_levels=NUM_LEVELS,
        num_points=config.num_encoder_points,
        hidden_dim=config.hidden_dim,
        dropout=config.dropout,
    )
    initialise_matrices(layer.feed_forward)
    return layer


def _class_head(config: ReferFormerConfig) -> nn.Linear:
    head = nn.Linear(config.dim, config.num_classes)
    nn.init.constant_(head.bias, -math.log(1 / UNLIKELY - 1))
    return head


def _box_head(config: ReferFormerConfig) -> MLP:
    head = MLP((config.dim, config.dim, config.dim, 4))
    for values in head.layers[-1].parameters():
        nn.init.zeros_(values)
    return head


def _with_small_boxes(head: MLP) -> MLP:
    """A copy whose boxes start small; later layers only move them."""
    small = copy.deepcopy(head)
    last = small.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[2:] = -2.0
    return small


def inverse_sigmoid(share: Tensor) -> Tensor:
    """The logit of a value in [0, 1], bounded."""
    share = share.clamp(0, 1)
    return (share.clamp(min=REFERENCE_EPS) / (1 - share).clamp(min=REFERENCE_EPS)).log()


def initialise_matrices(module: nn.Module) -> None:
    """Xavier-uniform weights of every linear layer inside."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
