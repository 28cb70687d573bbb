"""The query: what it reads, and what it says (kernel, box, existence)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.structures import Output

from .attention import CrossAttention, feed_forward
from .config import ScoutConfig
from .pyramid import Memory

SUBCELLS = 4  # a cell of stride 4 answers for 2 x 2 cells of stride 2
EMPTY_LOGIT = -2.0  # where masks start: most pixels belong to no answer


class QueryLayer(nn.Module):
    """The query reads cells and words, then thinks."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_dim) for _ in range(2))
        self.reading = CrossAttention(config.hidden_dim, config.head_dim)
        self.feed_forward = feed_forward(config.hidden_dim, config.feed_forward_dim)

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        """Query [N, 1, D] to [N, 1, D]."""
        query = query + self.reading(self.norms[0](query), memory.tokens, memory.valid)
        return query + self.feed_forward(self.norms[1](query))


class QueryDecoder(nn.Module):
    """One query per phrase and frame, and its answers after every layer."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.mask_channels = config.mask_channels
        self.sentence = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(QueryLayer(config) for _ in range(config.query_layers))
        self.norm = nn.LayerNorm(dim)
        self.kernel = _kernel_head(dim, config.mask_channels)
        self.box = _perceptron(dim, 4)
        self.existence = nn.Linear(dim, 1)

    def forward(self, sentence: Tensor, memory: Memory, mask_features: Tensor, num_frames: int) -> Output:
        """Sentences [N, D], memory and mask features [N, C, h, w] of N = P*T pictures to the answers of P phrases.

        Earlier layers answer in training alone.
        """
        query = self.sentence(sentence)[:, None]
        answers = []
        for layer in self.layers:
            query = layer(query, memory)
            answers.append(query)
        kept = answers if self.training else answers[-1:]
        outputs = [self._answer(self.norm(answer[:, 0]), mask_features, num_frames) for answer in kept]
        outputs[-1].earlier = tuple(outputs[:-1])
        return outputs[-1]

    def _answer(self, query: Tensor, mask_features: Tensor, num_frames: int) -> Output:
        kernel = self.kernel(query).unflatten(-1, (SUBCELLS, -1))  # [N, 4, C+1]
        logits = kernel[..., :-1] @ mask_features.flatten(2) / self.mask_channels**0.5 + kernel[..., -1:]
        logits = functional.pixel_shuffle(logits.unflatten(-1, mask_features.shape[-2:]), 2)[
            :, 0
        ]  # [N, 2h, 2w]
        return Output(
            mask_logits=_by_phrase(logits, num_frames),
            class_logits=_by_phrase(self.existence(query), num_frames),
            boxes=_by_phrase(self.box(query).sigmoid(), num_frames),
        )


def _by_phrase(rows: Tensor, num_frames: int) -> Tensor:
    """[P*T, ...] to [P, 1, T, ...], in float32."""
    return rows.float().unflatten(0, (-1, num_frames))[:, None]


def _kernel_head(dim: int, channels: int) -> nn.Sequential:
    """To one weight per channel and a bias for every subcell; the biases start at `EMPTY_LOGIT`."""
    out = nn.Linear(dim, SUBCELLS * (channels + 1))
    with torch.no_grad():
        out.bias.view(SUBCELLS, -1)[:, -1] = EMPTY_LOGIT
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), out)


def _perceptron(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))
