"""Random numbers of one scene: a function of a few whole numbers and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_BLOCK = 256


class Rng:
    """Draws from one generator; the same whole numbers give the same draws in every process."""

    def __init__(self, *entropy: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._block: list[float] = []

    def roll(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return self._block.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.roll()

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.roll() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.roll() < probability

    def pick(self, values: Sequence[T]) -> T:
        """One of the values, each as likely as the others."""
        return values[int(self.roll() * len(values))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, as often as its weight says."""
        left = self.roll() * sum(weights)
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return len(weights) - 1

    def bytes(self, *shape: int) -> NDArray[np.uint8]:
        """An array of whole numbers in [0, 255]."""
        return np.frombuffer(self._generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
