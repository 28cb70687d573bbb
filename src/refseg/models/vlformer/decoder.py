"""A few candidate queries look at one level and at the words in every layer, where their own mask lets them.

Source: Mask2Former's masked-attention decoder in its video form, with a second attention to the words. Departures from it
are the published code's: the first layer sees everything, and the feed-forward network has no residual connection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import Attention
from refseg.layers.feed_forward import MLP
from refseg.layers.position import sine_1d
from refseg.models.vlformer.config import VLFormerConfig
from refseg.models.vlformer.pixel_decoder import NUM_LEVELS, Memory, Words, spatial_position

NUM_ANSWERS = 2  # referred, no object


@dataclass(slots=True)
class Level:
    """One level of all T frames of P clips, side by side."""

    keys: Tensor  # [P, T*h*w, C] features plus position
    values: Tensor  # [P, T*h*w, C] features
    fine: Tensor  # [P, T*h*w, C] the fine map at this level's size


@dataclass(slots=True)
class Heads:
    """What the queries say after a layer."""

    class_logits: Tensor  # [P, Q, 2]
    kernels: Tensor  # [P, Q, C + 1] of the fine map's channels, and a constant: their product is the mask


class DecoderLayer(nn.Module):
    """Cross-attention to cells and to words in parallel, self-attention, feed-forward network; post-norm."""

    def __init__(self, config: VLFormerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.visual_attention = Attention(dim, config.num_heads)
        self.word_attention = Attention(dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, config.num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.hidden_dim)
        self.linear2 = nn.Linear(config.hidden_dim, dim)
        self.hidden_norm = nn.LayerNorm(dim)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)

    def forward(
        self, states: Tensor, position: Tensor, level: Level, words: Words, allowed: Tensor | None
    ) -> Tensor:
        """States [P, Q, C] to the same shape; `allowed` [P, Q, T*h*w] bool, None for everything."""
        placed = states + position
        seen = self.visual_attention(placed, level.keys, level.values, allowed)
        read = self.word_attention(placed, words.keys, words.values, words.valid)
        states = self.cross_norm(states + seen + read)
        placed = states + position
        states = self.self_norm(states + self.self_attention(placed, placed, states))
        # Published behaviour: no residual connection around the feed-forward network.
        return self.hidden_norm(self.linear2(functional.relu(self.linear1(states))))


class Decoder(nn.Module):
    """The candidate queries of a clip, shared by all its frames."""

    def __init__(self, config: VLFormerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.query_feat = nn.Embedding(config.num_queries, dim)
        self.query_embed = nn.Embedding(config.num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, NUM_ANSWERS)
        self.mask_embed = MLP((dim, dim, dim, config.mask_dim))

    def forward(self, memory: Memory, words: Words, mask_features: nn.Conv2d) -> list[Heads]:
        """What the queries of P clips say before the first layer and after each, in this order.

        Arguments:
            memory: of N = P * T frames; `words` are of P rows.
            mask_features: the 1x1 convolution that makes mask features of the fine map.
        """
        clips = len(words.values)
        levels = [self._level(memory, index, clips) for index in range(NUM_LEVELS)]
        position = self.query_embed.weight
        states = self.query_feat.weight.expand(clips, -1, -1)
        told = [self._heads(states, mask_features)]
        for index, layer in enumerate(self.layers):
            level = levels[index % NUM_LEVELS]
            # Published behaviour: the first layer looks everywhere, whatever the first prediction says.
            allowed = None if index == 0 else allowed_cells(told[-1], level)
            states = layer(states, position, level, words, allowed)
            told.append(self._heads(states, mask_features))
        return told

    def _heads(self, states: Tensor, mask_features: nn.Conv2d) -> Heads:
        """A mask logit is e . (W y + b) for mask embedding e and fine cell y; here it is (e W) . y + e . b."""
        hidden = self.norm(states)
        embedding = self.mask_embed(hidden)
        assert mask_features.bias is not None
        affine = torch.cat([mask_features.weight.flatten(1), mask_features.bias[:, None]], dim=1)
        return Heads(self.class_embed(hidden), embedding @ affine)

    def _level(self, memory: Memory, index: int, clips: int) -> Level:
        values = (memory.levels[index] + self.level_embed.weight[index]).unflatten(0, (clips, -1))
        frames = values.shape[1]
        time = sine_1d(torch.ones(1, frames, dtype=torch.bool, device=values.device), values.shape[-1])[0]
        position = spatial_position(memory.sizes[index], values) + time[:, None]  # [T, h*w, C]
        fine = functional.interpolate(memory.fine, memory.sizes[index], mode="bilinear", align_corners=False)
        return Level(
            (values + position).flatten(1, 2),
            values.flatten(1, 2),
            fine.flatten(2).transpose(1, 2).unflatten(0, (clips, -1)).flatten(1, 2),
        )


@torch.no_grad()
def allowed_cells(told: Heads, level: Level) -> Tensor:
    """Where each query may look next: bool [P, Q, T*h*w], its mask at the level's size; everywhere where that is empty.

    Resizing is linear, so the mask of the resized fine map is the resized mask.
    """
    kernels, constants = told.kernels[..., :-1], told.kernels[..., -1:]
    logits = constants + kernels @ level.fine.transpose(1, 2)
    allowed = logits >= 0
    return allowed | ~allowed.any(-1, keepdim=True)


def mask_logits(told: Heads, fine: Tensor) -> Tensor:
    """Mask logits [P, Q, T, h, w] of what P clips' queries say, on the fine maps [P*T, C, h, w]."""
    frames = len(fine) // len(told.kernels)
    kernels = told.kernels.repeat_interleave(frames, dim=0)  # [P*T, Q, C + 1]
    logits = kernels[..., -1:] + kernels[..., :-1] @ fine.flatten(2)  # [P*T, Q, h*w]
    return logits.unflatten(-1, fine.shape[-2:]).unflatten(0, (-1, frames)).transpose(1, 2)
