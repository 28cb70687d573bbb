"""Which example comes when: a function of the seed and the position alone, whoever asks and however often."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

_MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: spreads neighbouring numbers
_MASK = (1 << 63) - 1
_DEALING, _MIXING = 1, 4  # what the numbers are for, so that no two uses draw the same


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

    Arguments:
        count: examples of the set; None = without end.
        epoch: positions of one epoch; None = `count`. A shorter epoch leaves some examples out, others each time; a longer
            one begins its permutation again.
    """

    def __init__(self, count: int | None, seed: int, *, epoch: int | None = None) -> None:
        self.count = count
        self.seed = seed
        self.epoch = epoch if epoch is not None else count
        self._number = -1
        self._dealt: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The index of the example at `position`, counted from 0 over the whole run."""
        if self.count is None or self.epoch is None:
            return position
        number, place = divmod(position, self.epoch)
        if number != self._number:
            self._dealt = torch.randperm(
                self.count, generator=generator_at(self.seed, _DEALING, number)
            ).tolist()
            self._number = number
        return self._dealt[place % self.count]


class JointOrder:
    """The set, and the example of it, at every position of a run over several sets.

    Without shares the sets are dealt out as if they were one. With shares, positions fall into rounds that show `share`
    examples of each set, in an order drawn from (seed, round); each set is dealt out in epochs of its own.
    """

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        *,
        shares: Sequence[int] | None = None,
        epoch: int | None = None,
    ) -> None:
        assert shares is None or len(shares) == len(counts), "one share for every set"
        self.seed, self.shares = seed, shares
        self._ends = list(accumulate(counts))
        self._all = Order(self._ends[-1], seed, epoch=epoch)
        self._each = [Order(count, _seed_of(seed, number)) for number, count in enumerate(counts)]

    def __getitem__(self, position: int) -> tuple[int, int]:
        """The number of the set, and the index in it, at `position`."""
        if self.shares is None:
            return self.place(self._all[position])
        number, place = divmod(position, sum(self.shares))
        members = [which for which, share in enumerate(self.shares) for _ in range(share)]
        dealt = torch.randperm(len(members), generator=generator_at(self.seed, _MIXING, number)).tolist()
        row = [members[i] for i in dealt]
        which = row[place]
        return which, self._each[which][number * self.shares[which] + row[:place].count(which)]

    def place(self, number: int) -> tuple[int, int]:
        """The set and the index of example `number`, counted over all sets."""
        which = bisect_right(self._ends, number)
        return which, number - (self._ends[which - 1] if which else 0)

    def __len__(self) -> int:
        """Examples of all sets together."""
        return self._ends[-1]


def _seed_of(seed: int, number: int) -> int:
    """The seed of set `number`; the first one's is the run's own."""
    return seed if number == 0 else int(generator_at(seed, _MIXING, -number).initial_seed())


class ShapedOrder:
    """Like `Order`, but every `group` positions show examples of one kind, such as wide or tall pictures.

    An epoch leaves out what fills no group, fewer than `group` examples of each kind, others each time.
    """

    def __init__(self, kinds: Sequence[int], seed: int, *, group: int) -> None:
        self.kinds, self.seed, self.group = list(kinds), seed, group
        self.epoch = sum(self.kinds.count(kind) // group * group for kind in set(self.kinds))
        self._number = -1
        self._dealt: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The index of the example at `position`."""
        number, place = divmod(position, self.epoch)
        if number != self._number:
            self._dealt, self._number = self._deal(number), number
        return self._dealt[place]

    def _deal(self, number: int) -> list[int]:
        """One epoch: examples wait by kind, and a group leaves as soon as it is full."""
        order = torch.randperm(len(self.kinds), generator=generator_at(self.seed, _DEALING, number)).tolist()
        waiting: dict[int, list[int]] = {}
        dealt: list[int] = []
        for index in order:
            group = waiting.setdefault(self.kinds[index], [])
            group.append(index)
            if len(group) == self.group:
                dealt += group
                group.clear()
        return dealt


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
