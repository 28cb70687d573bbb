"""Numbers from an explicit generator, as Python values."""

from __future__ import annotations

import torch


def chance(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator))


def between(generator: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * chance(generator)


def whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included; nothing is drawn where there is one alone."""
    return low if high <= low else int(torch.randint(low, high + 1, (), generator=generator))


def distinct(generator: torch.Generator, total: int, count: int) -> list[int]:
    """`count` different numbers below `total`, in the order drawn."""
    return [int(number) for number in torch.randperm(total, generator=generator)[:count]]


def normal(generator: torch.Generator, count: int) -> list[float]:
    """`count` numbers of the normal distribution of mean 0 and deviation 1."""
    return [float(number) for number in torch.randn(count, generator=generator)]
