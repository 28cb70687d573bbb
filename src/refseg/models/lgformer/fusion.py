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
    """Attention of pixels over words and of words over pixels, from one table of scores; both become residuals.

    Queries, pixel values and mixed words are normalised over positions, which takes away what is added to all positions
    alike; their published biases are therefore left out.
    """

    def __init__(self, dim: int, text_dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.own_pixels = nn.Linear(dim, dim)
        self.own_words = nn.Linear(text_dim, text_dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(text_dim, dim)
        self.word_value = nn.Linear(text_dim, dim)
        self.mix_words = nn.Linear(dim, dim, bias=False)
        self.pixel_value = nn.Linear(dim, text_dim, bias=False)
        self.mix_pixels = nn.Linear(text_dim, text_dim)
        self.join_pixels = nn.Linear(2 * dim, dim)
        self.out_pixels = nn.Linear(dim, dim)
        self.join_words = nn.Linear(2 * text_dim, text_dim)
        self.out_words = nn.Linear(text_dim, text_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pixels: Tensor, words: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals of pixels [N, S, C] and of words [N, L, D]; `valid` [N, L], and other words' are zero."""
        real = valid[..., None].to(words.dtype)  # [N, L, 1]
        keys, values = (layer(words) * real for layer in (self.key, self.word_value))
        centred = at_least_float32(pixels)
        centred = centred - centred.mean(1, keepdim=True)
        # What is done to few words costs nothing in full precision.
        with torch.autocast(pixels.device.type, enabled=False):
            query_scale, value_scale = _scales(centred, self.query.weight, self.pixel_value.weight)
            scores = self._scores(centred, at_least_float32(keys), query_scale)
            told = self._told_to_pixels(scores, at_least_float32(values), valid)
            heard = self._told_to_words(scores, centred, value_scale) * real
        joined = self._act(_half(self.join_pixels, 0, self._act(self.own_pixels(pixels))) + told)
        residual = self._act(self.out_pixels(joined))
        own = self._act(self.own_words(words)) * real
        both = torch.cat([own, self.mix_pixels(heard) * real], dim=-1)
        return residual, self._act(self.out_words(self._act(self.join_words(both)))) * real

    def shares(self, pixels: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """How much each pixel [N, S, C] takes from each word, [N, L, S], a mean over the heads; for people to look at."""
        keys = self.key(words) * valid[..., None].to(words.dtype)
        centred = at_least_float32(pixels)
        centred = centred - centred.mean(1, keepdim=True)
        with torch.autocast(pixels.device.type, enabled=False):
            (scale,) = _scales(centred, self.query.weight)
            scores = self._scores(centred, at_least_float32(keys), scale)
        by_head = scores.unflatten(1, (self.num_heads, -1)).masked_fill(~valid[:, None, :, None], -math.inf)
        return by_head.softmax(2).mean(1)

    def _act(self, x: Tensor) -> Tensor:
        return self.dropout(functional.gelu(x))

    def _scores(self, centred: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
        """[N, heads * L, S]: normalised queries times keys; the queries' projection is done to the keys."""
        # Published behaviour: divided by the root of all channels, for any number of heads.
        scaled = keys * scale * keys.shape[-1] ** -0.5
        asked = _by_head(scaled, self.num_heads) @ self.query.weight  # [N, heads * L, C]
        return asked @ centred.transpose(1, 2)

    def _told_to_pixels(self, scores: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """The words' half of what `join_pixels` gives [N, S, C], with its bias.

        A pixel's mix of values, mixed again and normalised over positions, is linear in the shares; so all of it is done
        to the values, and its variance comes from the covariance of the shares.
        """
        heads = self.num_heads
        by_head = scores.unflatten(1, (heads, -1)).masked_fill(~valid[:, None, :, None], -math.inf)
        shares = by_head.softmax(2).flatten(1, 2)  # [N, heads * L, S]; the words' shares of a pixel
        mean = shares.mean(2, keepdim=True)
        covariance = _covariance((shares - mean).transpose(1, 2))
        given = _by_head(values, heads) @ self.mix_words.weight.t()  # [N, heads * L, C]
        variance = ((covariance @ given) * given).sum(1, keepdim=True)
        normal = (given - mean.transpose(1, 2) @ given / heads) * (variance + EPS).rsqrt()
        told = _half(self.join_pixels, 1, normal)
        return shares.transpose(1, 2) @ told + self.join_pixels.bias

    def _told_to_words(self, scores: Tensor, centred: Tensor, scale: Tensor) -> Tensor:
        """[N, L, D]: each word's mix over positions of normalised pixel values; the mix is projected, not the pixels."""
        shares = scores.softmax(2)  # [N, heads * L, S]; the pixels' shares of a word
        mixed = (shares @ centred).unflatten(1, (self.num_heads, -1))  # [N, heads, L, C]
        by_head = self.pixel_value.weight.unflatten(0, (self.num_heads, -1))  # [heads, D / heads, C]
        told = mixed @ by_head.transpose(1, 2)  # [N, heads, L, D / heads]
        return told.transpose(1, 2).flatten(2) * scale


def _scales(centred: Tensor, *weights: Tensor) -> list[Tensor]:
    """One over the deviation, over positions, of what linear layers make of centred pixels: [N, 1, D] for each weight.

    Where positions are many, their covariance says it without computing what the layers make of them.
    """
    positions, channels = centred.shape[1:]
    outputs = sum(len(weight) for weight in weights)
    if positions * outputs > (positions + outputs) * channels:
        covariance = _covariance(centred)  # [N, C, C]
        variances = [((weight @ covariance) * weight).sum(-1)[:, None] for weight in weights]
    else:
        variances = [(centred @ weight.t()).square().mean(1, keepdim=True) for weight in weights]
    return [(variance + EPS).rsqrt() for variance in variances]


def _covariance(centred: Tensor) -> Tensor:
    """[N, S, C] of mean zero over S to [N, C, C]."""
    return centred.transpose(1, 2) @ centred / centred.shape[1]


def _half(layer: nn.Linear, number: int, x: Tensor) -> Tensor:
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
