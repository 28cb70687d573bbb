"""What an example is asked: its own phrases, or in the control those of its neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from refseg.data.catalog import PhraseDataset
    from refseg.structures import Example


@dataclass(frozen=True, slots=True)
class Questions:
    """The phrases that an example is asked, one for each of its targets in `rows`."""

    phrases: tuple[str, ...]
    rows: tuple[int, ...]


def check_count(dataset: PhraseDataset, total: int, *, with_neighbour: bool) -> None:
    """
    Raises:
        InvalidInput: if there is nothing to evaluate.
    """
    if total < 1 + with_neighbour:
        needed = "two examples to exchange phrases between" if with_neighbour else "an example"
        raise InvalidInput(f"{dataset.name} has {total} examples to evaluate; give it at least {needed}")


def of(example: Example, dataset: PhraseDataset, index: int, neighbours: int | None) -> Questions:
    """The phrases of `example`; of its neighbour where it is one of so many `neighbours`."""
    if neighbours is None:
        return Questions(example.phrases, tuple(range(len(example.phrases))))
    neighbour = dataset[(index - 1) % neighbours]
    if example.masks is None or neighbour.masks is None:
        raise InvalidInput(f"{example.name} of {dataset.name} has no masks; the control compares with masks")
    return _exchanged(example, neighbour)


def _exchanged(example: Example, neighbour: Example) -> Questions:
    """The targets of `example` with phrases of `neighbour`: of the same register and with other words where it can be."""
    assert example.masks is not None and neighbour.masks is not None
    rows = tuple(example.masks.flatten(1).any(1).nonzero().flatten().tolist())
    donors = neighbour.masks.flatten(1).any(1).nonzero().flatten().tolist()
    phrases = []
    for place, row in enumerate(rows):
        turn = donors[place % len(donors) :] + donors[: place % len(donors)] if donors else []
        same = [d for d in turn if register_of(neighbour, d) == register_of(example, row)] or turn
        other = [d for d in same if neighbour.phrases[d] != example.phrases[row]] or same
        phrases += [neighbour.phrases[d] for d in other[:1]]
    return Questions(tuple(phrases), rows[: len(phrases)])


def register_of(example: Example, row: int) -> str:
    """The kind of a phrase; empty where the data set names none."""
    return example.registers[row] if example.registers else ""
