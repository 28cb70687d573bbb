"""The text tower of CLIP with the names of the Hugging Face hub: token ids in, one vector a token out.

A file of its own beside text.py: CLIP normalises before each half of a layer and once at the end, looks backwards only,
has no token types, no normalised embeddings and no pooler, and names each of its parts differently. As a branch of the
other tower it would be a switch in every line.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., ICML 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

QUICK_GELU = 1.702  # x * sigmoid(1.702 x), CLIP's own approximation of GELU


@dataclass(frozen=True)
class ClipTextSpec:
    """The numbers of a tower, and which tokenizer feeds it."""

    tokenizer: str = "openai/clip-vit-base-patch16"  # a hub name, or "bytes", which needs no file
    vocabulary: int = 49408
    width: int = 512
    num_layers: int = 12
    num_heads: int = 8
    hidden_dim: int = 2048
    num_positions: int = 77
    norm_eps: float = 1e-5


CLIP_BASE_TEXT = ClipTextSpec()  # https://huggingface.co/openai/clip-vit-base-patch16, config.json
CLIP_LARGE_TEXT = ClipTextSpec(  # https://huggingface.co/openai/clip-vit-large-patch14, config.json
    tokenizer="openai/clip-vit-large-patch14", width=768, num_heads=12, hidden_dim=3072
)


class ClipTextTower(nn.Module):
    """A causal transformer over token ids; parameter names are the hub's without `text_model.`."""

    layer_order: ClassVar[tuple[str, ...]] = (r"embeddings\.", r"encoder\.layers\.(\d+)\.")
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(spec.vocabulary, spec.width),
                "position_embedding": nn.Embedding(spec.num_positions, spec.width),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(spec) for _ in range(spec.num_layers))})
        self.final_layer_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self._reset(spec)

    def forward(self, ids: Tensor, valid: Tensor | None = None) -> Tensor:
        """The normalised last layer at every position, padding included.

        A position looks at itself and at what stands before it. With `valid`, none looks at padding either; without,
        padding counts as words, as Stable Diffusion and its descendants have it.

        Shapes:
            ids: [P, L] int64, L at most the number of positions.
            valid: [P, L] bool; the first token of every row is valid.
            returns: [P, L, D].
        """
        positions = cast("nn.Embedding", self.embeddings["position_embedding"]).weight[: ids.shape[1]]
        hidden = self.embeddings["token_embedding"](ids) + positions
        allowed = None if valid is None else _backwards(ids) & valid[:, None, None, :]
        for layer in cast("nn.ModuleList", self.encoder["layers"]):
            hidden = layer(hidden, allowed)
        return self.final_layer_norm(hidden)

    def _reset(self, spec: ClipTextSpec) -> None:
        """Initial values as published with CLIP."""
        nn.init.normal_(cast("nn.Embedding", self.embeddings["token_embedding"]).weight, std=0.02)
        nn.init.normal_(cast("nn.Embedding", self.embeddings["position_embedding"]).weight, std=0.01)
        inner, outer = spec.width**-0.5, spec.width**-0.5 * (2 * spec.num_layers) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                wide = (2 * spec.width) ** -0.5 if name.endswith("fc1") else inner
                nn.init.normal_(module.weight, std=outer if name.endswith(("out_proj", "fc2")) else wide)
                nn.init.zeros_(module.bias)


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each of normalised tokens, each added to them."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(spec.width, spec.width) for name in names})
        self.layer_norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(spec.width, spec.hidden_dim), "fc2": nn.Linear(spec.hidden_dim, spec.width)}
        )
        self.layer_norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)

    def forward(self, hidden: Tensor, allowed: Tensor | None) -> Tensor:
        """[P, L, D] to the same shape; `allowed` [P, 1, L, L] bool, or None for all that stands before."""
        hidden = hidden + self._attended(self.layer_norm1(hidden), allowed)
        wide = self.mlp["fc1"](self.layer_norm2(hidden))
        return hidden + self.mlp["fc2"](wide * (QUICK_GELU * wide).sigmoid())

    def _attended(self, hidden: Tensor, allowed: Tensor | None) -> Tensor:
        query, key, value = (
            self.self_attn[name](hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )  # [P, heads, L, D / heads]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, is_causal=allowed is None
        )
        return self.self_attn["out_proj"](mixed.transpose(1, 2).flatten(2))


def _backwards(ids: Tensor) -> Tensor:
    """[L, L] bool: row i may look at the columns up to i."""
    return torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
