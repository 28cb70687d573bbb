"""What pixels and words tell each other after a stage of the backbone, and how much of it passes on.

Source: section 3.2 of the paper. Published behaviour that weights depend on: scores are scaled by the full width, not
that of a head; the words' branch has no normalisation after its mixing, the pixels' has.
Departures, none in the result: normalisations over positions are linear, and softmax weights sum to one, so both are
done to the few words instead of the many pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.layers.precision import at_least_float32

EPS = 1e-5  # of normalisations over positions


class Fusion(nn.Module):
    """Attention of pixels over words and of words over pixels, from one table of scores; both become residuals."""

    def __init__(self, dim: int, text_dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.own_pixels = nn.Linear(dim, dim)
        self.own_words = nn.Linear(text_dim, text_dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(text_dim, dim)
        self.word_value = nn.Linear(text_dim, dim)
        self.mix_words = nn.Linear(dim, dim)
        self.pixel_value = nn.Linear(dim, text_dim)
        self.mix_pixels = nn.Linear(text_dim, text_dim)
        self.join_pixels = nn.Linear(2 * dim, dim)
        self.out_pixels = nn.Linear(dim, dim)
        self.join_words = nn.Linear(2 * text_dim, text_dim)
        self.out_words = nn.Linear(text_dim, text_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pixels: Tensor, words: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals of pixels [N, S, C] and of words [N, L, D]; `valid` [N, L], and other words' are zero."""
        real = valid[..., None].to(words.dtype)  # [N, L, 1]
        # What is normalised over positions may be centred before: the same, with smaller numbers to cancel.
        centred = pixels - pixels.mean(1, keepdim=True)
        scores = self._scores(centred, self.key(words) * real)
        told = self._told_to_pixels(scores, self.word_value(words) * real, valid)
        joined = self._act(self._half(self.join_pixels, 0, self._act(self.own_pixels(pixels))) + told)
        residual = self._act(self.out_pixels(joined))
        heard = self.mix_pixels(self._told_to_words(scores, centred) * real) * real
        own = self._act(self.own_words(words)) * real
        joined_words = self._act(self.join_words(torch.cat([own, heard], dim=-1)))
        return residual, self._act(self.out_words(joined_words)) * real

    def _act(self, x: Tensor) -> Tensor:
        return self.dropout(functional.gelu(x))

    def _scores(self, pixels: Tensor, keys: Tensor) -> Tensor:
        """[N, S, heads * L]: queries, normalised over positions, times keys."""
        queries = self.query(pixels)
        variance, mean = torch.var_mean(at_least_float32(queries), dim=1, correction=0, keepdim=True)
        # Published behaviour: the scale is that of all channels, for any number of heads.
        scaled = at_least_float32(keys) * (variance + EPS).rsqrt() * queries.shape[-1] ** -0.5
        asked = _by_head(scaled, self.num_heads)  # [N, heads * L, C]
        shift = (asked * mean).sum(-1)[:, None]
        return torch.baddbmm(-shift.to(queries.dtype), queries, asked.to(queries.dtype).transpose(1, 2))

    def _told_to_pixels(self, scores: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """The words' half of what `join_pixels` gives [N, S, C], with its bias.

        A pixel's mix of values, mixed again and normalised over positions, is linear in the shares; so all of it is done
        to the values, and its variance comes from the covariance of the shares.
        """
        heads = self.num_heads
        by_head = (
            at_least_float32(scores).unflatten(-1, (heads, -1)).masked_fill(~valid[:, None, None], -math.inf)
        )
        shares = by_head.softmax(-1).flatten(2)  # [N, S, heads * L], rows sum to the number of heads
        mean = shares.mean(1, keepdim=True)
        centred = shares - mean
        covariance = centred.transpose(1, 2) @ centred / shares.shape[1]
        mix = self.mix_words
        mixed = functional.linear(_by_head(values, heads), mix.weight, mix.bias / heads)
        given = at_least_float32(mixed)  # [N, heads * L, C]
        variance = ((covariance @ given) * given).sum(1, keepdim=True)
        normal = (given - mean @ given / heads) * (variance + EPS).rsqrt()
        told = self._half(self.join_pixels, 1, normal.to(values.dtype))
        return shares.to(told.dtype) @ told + self.join_pixels.bias

    def _told_to_words(self, scores: Tensor, pixels: Tensor) -> Tensor:
        """[N, L, D]: each word's mix over positions of pixel values that are normalised over positions."""
        values = self.pixel_value(pixels)
        variance, mean = torch.var_mean(at_least_float32(values), dim=1, correction=0, keepdim=True)
        shares = (
            at_least_float32(scores).softmax(1).to(values.dtype).unflatten(-1, (self.num_heads, -1))
        )  # [N, S, heads, L]
        by_head = values.unflatten(-1, (self.num_heads, -1))  # [N, S, heads, D / heads]
        mixed = shares.permute(0, 2, 3, 1) @ by_head.transpose(1, 2)  # [N, heads, L, D / heads]
        told = at_least_float32(mixed.transpose(1, 2).flatten(2))
        return ((told - mean) * (variance + EPS).rsqrt()).to(values.dtype)

    def _half(self, layer: nn.Linear, number: int, x: Tensor) -> Tensor:
        """A layer over two inputs in a row, of one of them; without its bias."""
        return functional.linear(x, layer.weight.chunk(2, dim=1)[number])


def _by_head(tokens: Tensor, num_heads: int) -> Tensor:
    """[N, L, C] to [N, heads * L, C]: each token once a head, with the channels of that head alone."""
    if num_heads == 1:
        return tokens
    channels = tokens.shape[-1]
    owner = torch.arange(channels, device=tokens.device) // (channels // num_heads)
    is_own = owner == torch.arange(num_heads, device=tokens.device)[:, None]  # [heads, C]
    return (tokens[:, None] * is_own[:, None].to(tokens.dtype)).flatten(1, 2)


class Gate(nn.Module):
    """How much of a residual is added: itself, times a number in (-1, 1) for each of its channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim, bias=False)
        self.second = nn.Linear(dim, dim, bias=False)

    def forward(self, residual: Tensor) -> Tensor:
        """[..., C] to the same shape."""
        return self.second(functional.relu(self.first(residual), inplace=True)).tanh() * residual
