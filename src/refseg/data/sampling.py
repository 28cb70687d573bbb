"""Which example comes when: a function of the seed and the position alone, whoever asks and however often."""

from __future__ import annotations

from collections.abc import Iterator

import torch

_MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: spreads neighbouring numbers
_MASK = (1 << 63) - 1
_DEALING = 1  # what the numbers are for, so that no two uses draw the same


def generator_at(*key: int) -> torch.Generator:
    """A generator that depends on the numbers of `key` alone, such as (seed, position)."""
    state = 0
    for part in key:
        state = ((state ^ part) * _MIX + 1) & _MASK
        state ^= state >> 29
    return torch.Generator().manual_seed(state)


class Order:
    """The example at every position of a run.

    A finite set is dealt out in one permutation an epoch, each drawn from (seed, epoch). A set without end is read in
    order, so that every position shows something new.
    """

    def __init__(self, count: int | None, seed: int) -> None:
        self.count = count  # examples of the set; None = without end
        self.seed = seed
        self._epoch = -1
        self._dealt: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The index of the example at `position`, counted from 0 over the whole run."""
        if self.count is None:
            return position
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._dealt = torch.randperm(
                self.count, generator=generator_at(self.seed, _DEALING, epoch)
            ).tolist()
            self._epoch = epoch
        return self._dealt[place]


class Positions:
    """The positions of every batch that is still to come, for one rank: a batch sampler.

    Batch number k of all ranks together takes the positions from k * world_size * batch_size on; ranks take turns, so
    the examples of a step do not depend on how many processes share them.
    """

    def __init__(self, start: int, stop: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.start, self.stop = start, stop  # batches, counted over the whole run
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start, self.stop):
            first = batch * self.batch_size * self.world_size + self.rank
            yield [first + i * self.world_size for i in range(self.batch_size)]

    def __len__(self) -> int:
        return self.stop - self.start
