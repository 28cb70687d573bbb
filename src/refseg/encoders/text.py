"""Text towers with the names of the Hugging Face hub: words in, one vector a token and one a phrase out.

One transformer, whose shapes are data (`TextSpec`): RoBERTa, whose learned positions skip the padding, and BERT, whose
positions count from zero and which comes without a pooler. Both are post-norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.attention import attend
from refseg.structures import TextTokens


@dataclass(frozen=True)
class TextSpec:
    """The numbers of a tower, and which tokenizer feeds it."""

    tower: Literal["roberta", "bert"] = "roberta"
    tokenizer: str = "roberta-base"  # a hub name, or "bytes" or "words", which need no file
    vocabulary: int = 50265
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 3072
    num_positions: int = 514
    num_token_types: int = 1
    norm_eps: float = 1e-5
    pad_id: int = 1
    dropout: float = 0.1  # of embeddings, attention weights and both halves of a layer

    @property
    def max_tokens(self) -> int:
        """The longest phrase; in RoBERTa, positions up to and with the padding's own are not for tokens."""
        return self.num_positions if self.tower == "bert" else self.num_positions - self.pad_id - 1


ROBERTA_BASE = TextSpec()  # https://huggingface.co/FacebookAI/roberta-base, config.json
BERT_BASE = TextSpec(  # https://huggingface.co/google-bert/bert-base-uncased, config.json
    tower="bert",
    tokenizer="bert-base-uncased",
    vocabulary=30522,
    num_positions=512,
    num_token_types=2,
    norm_eps=1e-12,
    pad_id=0,
)
INITIAL_SPREAD = 0.02  # standard deviation of initial weights, as published with BERT


@dataclass(slots=True)
class TowerOutput:
    """What a tower says."""

    tokens: Tensor  # [P, L, D] the last layer
    pooled: Tensor | None  # [P, D] tanh of a dense layer on the first token; None without a pooler


class TextTower(nn.Module):
    """A transformer encoder over token ids."""

    layer_order: ClassVar[tuple[str, ...]] = (r"embeddings\.", r"encoder\.layer\.(\d+)\.")
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(spec) for _ in range(spec.num_layers))})
        if spec.tower == "roberta":
            self.pooler = nn.ModuleDict({"dense": nn.Linear(spec.width, spec.width)})
        self.has_pooler = spec.tower == "roberta"
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_SPREAD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: TextTokens) -> TowerOutput:
        """Ids [P, L] to features of tokens and phrases; padding is not looked at."""
        hidden = self.embeddings(tokens)
        for layer in cast("nn.ModuleList", self.encoder["layer"]):
            hidden = layer(hidden, tokens.valid)
        pooled = self.pooler["dense"](hidden[:, 0]).tanh() if self.has_pooler else None
        return TowerOutput(hidden, pooled)


class Embeddings(nn.Module):
    """Word, position and token-type vectors, added and normalised."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.pad_id = spec.pad_id
        self.skips_padding = spec.tower == "roberta"
        self.word_embeddings = nn.Embedding(spec.vocabulary, spec.width)
        self.position_embeddings = nn.Embedding(spec.num_positions, spec.width)
        self.token_type_embeddings = nn.Embedding(spec.num_token_types, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, tokens: TextTokens) -> Tensor:
        """[P, L] to [P, L, D]."""
        positions = self._positions(tokens.values)
        summed = self.word_embeddings(tokens.values) + self.position_embeddings(positions)
        summed = summed + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(summed))

    def _positions(self, ids: Tensor) -> Tensor:
        """RoBERTa counts tokens that are not padding, from `pad_id` + 1; BERT counts places, from 0."""
        if not self.skips_padding:
            return torch.arange(ids.shape[-1], device=ids.device)
        is_token = ids != self.pad_id
        return is_token.cumsum(-1) * is_token + self.pad_id


class Layer(nn.Module):
    """Self-attention and a GELU feed-forward network, each added and then normalised."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.attention = nn.ModuleDict(
            {"self": _named_linears(spec.width), "output": AddAndNorm(spec.width, spec)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(spec.width, spec.hidden_dim)})
        self.output = AddAndNorm(spec.hidden_dim, spec)
        self.attention_dropout = spec.dropout

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """[P, L, D] to the same shape."""
        projections = cast("nn.ModuleDict", self.attention["self"])
        mixed = attend(
            *(projections[name](hidden) for name in ("query", "key", "value")),
            num_heads=self.num_heads,
            valid=valid,
            dropout=self.attention_dropout if self.training else 0.0,
        )
        attended = self.attention["output"](mixed, hidden)
        return self.output(functional.gelu(self.intermediate["dense"](attended)), attended)


class AddAndNorm(nn.Module):
    """A linear layer, dropout, the residual, a normalisation."""

    def __init__(self, dim: int, spec: TextSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[P, L, dim] and [P, L, D] to [P, L, D]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


def _named_linears(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
