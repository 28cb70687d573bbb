"""How attention is computed inside the UNet, and how the maps of a few layers are read on the way.

These are processors, as diffusers calls them: values that an attention layer asks for its computation. Maps are written
to a dict that the caller brings for one pass, so passes never see each other's; when activations are computed again in
training, the same map is written a second time.

Source: section 3.3 of the paper. Published behaviour: maps carry no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FUSED_DEVICES = ("cpu", "cuda")  # where torch never forms the matrix of self-attention
LARGEST_MATRIX = 1 << 29  # bytes of attention scores that may be formed at once elsewhere

Maps = dict[str, Tensor]
"""Maps of one pass by the name of their layer, each [N, HW, L]."""


class FusedAttention:
    """Attention whose probabilities nobody asks for."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        maps: Maps | None = None,
    ) -> Tensor:
        """[N, HW, C], over itself or over context [N, L, D], to [N, HW, C]; `maps` is left alone."""
        assert attention_mask is None, "every position is attended to"
        query, key, value = _projected(attn, hidden_states, encoder_hidden_states)
        return _merged(attn, attend(query, key, value))


class MapReader:
    """Attention over the phrase that leaves its probabilities, averaged over heads, in `maps`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        maps: Maps | None = None,
    ) -> Tensor:
        """[N, HW, C] over context [N, L, D] to [N, HW, C]."""
        assert attention_mask is None, "every position is attended to"
        query, key, value = _projected(attn, hidden_states, encoder_hidden_states)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = scores.float().softmax(-1)  # [N, heads, HW, L]
        if maps is not None:
            maps[self.name] = weights.detach().mean(1)
        return _merged(attn, weights.to(value.dtype) @ value)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention [N, heads, Q, D]; in slices of the queries where the whole matrix would take too much memory."""
    rows = query.shape[-2]
    step = rows if query.device.type in FUSED_DEVICES else rows_at_once(query, key)
    if step >= rows:
        return functional.scaled_dot_product_attention(query, key, value)
    return torch.cat(
        [functional.scaled_dot_product_attention(part, key, value) for part in _slices(query, step)],
        dim=-2,
    )


def rows_at_once(query: Tensor, key: Tensor) -> int:
    """So many queries have scores that fit in `LARGEST_MATRIX`."""
    row = query.shape[0] * query.shape[1] * key.shape[-2] * query.element_size()
    return max(1, LARGEST_MATRIX // row)


def _slices(query: Tensor, step: int) -> Iterator[Tensor]:
    for start in range(0, query.shape[-2], step):
        yield query[..., start : start + step, :]


def _projected(attn: Any, hidden: Tensor, context: Tensor | None) -> list[Tensor]:
    """Queries, keys and values [N, heads, positions, D]."""
    context = hidden if context is None else context
    parts = attn.to_q(hidden), attn.to_k(context), attn.to_v(context)
    return [part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts]


def _merged(attn: Any, mixed: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
    return projected
