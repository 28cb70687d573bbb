"""Queries made from picture and phrase, and how much each of their answers counts.

Source: sections 3.2 (query generation) and 3.3 (query balance) of the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.models.vlt.blocks import ConvNorm, dense
from refseg.models.vlt.transformer import ReluAttention, with_positions

COORDINATES = 6  # channels: three times the column, three times the row


class QueryGeneration(nn.Module):
    """Several readings of one phrase: what the picture makes important, said with the phrase's words."""

    def __init__(
        self, channels: int, *, phrase_dim: int, dim: int, num_heads: int, num_queries: int, cells: int
    ) -> None:
        super().__init__()
        wide = channels + COORDINATES
        self.convs = nn.Sequential(*(ConvNorm(wide, wide, 3) for _ in range(3)))
        self.maps = nn.Conv2d(wide, num_queries, 1)
        self.cells = dense(cells, dim)
        self.words = dense(phrase_dim, dim)
        self.query, self.key, self.value = (dense(dim, dim) for _ in range(3))
        self.attention = ReluAttention(dim, num_heads)

    def look(self, fused: Tensor) -> Tensor:
        """Where each query looks: [N, Q, G, G] of fused maps [N, C, G, G]."""
        return self.maps(self.convs(torch.cat([fused, _coordinates(fused)], dim=1)))

    def visual(self, maps: Tensor) -> Tensor:
        """[N, Q, D]: each query's map as one vector."""
        return functional.relu(self.cells(maps.flatten(2)))

    def speak(self, words: Tensor) -> Tensor:
        """[N, L, D]: the states of words [N, L, U] at the transformer's width."""
        return functional.relu(self.words(words))

    def mix(self, visual: Tensor, words: Tensor) -> Tensor:
        """[N, Q, D]: for each visual query, the words that go with it."""
        return self.attention(*self._asked(visual, words))

    def shares(self, visual: Tensor, words: Tensor) -> Tensor:
        """[N, Q, L]: how much each query takes from each word."""
        query, key, _ = self._asked(visual, words)
        return self.attention.shares(query, key)

    def _asked(self, visual: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Published behaviour: a dense layer with a ReLU here, and the attention's own with a ReLU after it.
        placed, told = with_positions(visual), with_positions(words)
        return (
            functional.relu(self.query(placed)),
            functional.relu(self.key(told)),
            functional.relu(self.value(told)),
        )


class QueryBalance(nn.Module):
    """A weight in [0, 1] for each query's answer, and the answers as maps."""

    def __init__(self, dim: int, cells: int) -> None:
        super().__init__()
        self.query, self.answer = dense(dim, dim), dense(dim, dim)
        self.both = dense(2 * dim, dim)
        self.weight = dense(dim, 1)
        self.maps = dense(dim, cells)

    def weigh(self, queries: Tensor, answers: Tensor) -> Tensor:
        """[N, Q, 1] of queries and the decoder's answers to them [N, Q, D]."""
        pair = [functional.relu(self.answer(answers)), functional.relu(self.query(queries))]
        return self.weight(functional.relu(self.both(torch.cat(pair, dim=-1)))).sigmoid()

    def respond(self, weights: Tensor, answers: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, Q, G, G]: the answers, each as much as it counts, as maps of `grid` cells."""
        return functional.relu(self.maps(weights * answers)).unflatten(-1, grid)


def _coordinates(maps: Tensor) -> Tensor:
    """[N, 6, G, G] from -1 to 1: x three times, then y three times."""
    count, _, height, width = maps.shape
    x = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)[:, None].expand(height, width)
    return torch.stack([x, x, x, y, y, y]).expand(count, -1, -1, -1)
