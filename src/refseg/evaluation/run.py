"""A checkpoint on a data set: every phrase is asked as a user would ask it, and its answer compared with the target."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refseg.errors import InvalidInput
from refseg.metrics.overlap import Overlaps, Score

if TYPE_CHECKING:
    from refseg.data.catalog import PhraseDataset
    from refseg.predictor import Predictor
    from refseg.structures import Example

PROTOCOL = (
    "masks at the size of the stored frame; P@X counts IoU >= X; "
    "phrases without a target count in 'refused' only"
)


@dataclass(slots=True)
class Result:
    """What a checkpoint scored on a data set, and how long it took."""

    data: str  # name of the data set
    overlaps: Overlaps = field(default_factory=Overlaps)
    is_shuffled: bool = False  # the control: every phrase came from another example
    examples: int = 0
    frames: int = 0
    phrases: int = 0
    reading_seconds: float = 0.0  # opening or drawing the examples
    predicting_seconds: float = 0.0  # from frames and phrases to masks

    def score(self, *registers: str) -> Score:
        """The score of some registers together; of all phrases where none is named."""
        return self.overlaps.score(*registers)


def evaluate(
    predictor: Predictor,
    dataset: PhraseDataset,
    *,
    limit: int | None = None,
    shuffle_phrases: bool = False,
    shows_progress: bool = False,
) -> Result:
    """Asks `predictor` every phrase of (the first `limit` examples of) `dataset`.

    Args:
        limit: so many examples at most; None is all.
        shuffle_phrases: the control: each example is asked the phrases of its neighbour, and must score far lower if
            the words decide. Phrases without a target are left out of it.
        shows_progress: a bar on stderr, where that is a terminal.

    Raises:
        InvalidInput: if there is nothing to evaluate, an example has no masks, or a phrase cannot be read by the model.
    """
    examples = _examples(dataset, limit, with_neighbour=shuffle_phrases)
    result = Result(data=dataset.name, is_shuffled=shuffle_phrases)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for questions, seconds in _timed(_progress(examples, total) if shows_progress else examples):
        result.reading_seconds += seconds
        _ask(predictor, questions, result)
    return result


@dataclass(frozen=True, slots=True)
class _Questions:
    """An example and the phrases that it is asked, one for each of its targets in `rows`."""

    example: Example
    phrases: tuple[str, ...]
    rows: tuple[int, ...]


def _examples(dataset: PhraseDataset, limit: int | None, *, with_neighbour: bool) -> Iterator[_Questions]:
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if total < 1 + with_neighbour:
        needed = "two examples to exchange phrases between" if with_neighbour else "an example"
        raise InvalidInput(f"{dataset.name} has {total} examples to evaluate; give it at least {needed}")
    neighbour = _read(dataset, total - 1) if with_neighbour else None
    for index in range(total):
        example = _read(dataset, index)
        if neighbour is None:
            yield _Questions(example, example.phrases, tuple(range(len(example.phrases))))
        else:
            yield _exchanged(example, neighbour)
            neighbour = example


def _read(dataset: PhraseDataset, index: int) -> Example:
    example = dataset[index]
    if example.masks is None:
        raise InvalidInput(f"{example.name} of {dataset.name} has no masks; evaluation compares with masks")
    return example


def _exchanged(example: Example, neighbour: Example) -> _Questions:
    """The targets of `example` with phrases of `neighbour`: of the same register and with other words where it can be."""
    assert example.masks is not None and neighbour.masks is not None
    rows = tuple(example.masks.flatten(1).any(1).nonzero().flatten().tolist())
    donors = neighbour.masks.flatten(1).any(1).nonzero().flatten().tolist()
    phrases = []
    for place, row in enumerate(rows):
        turn = donors[place % len(donors) :] + donors[: place % len(donors)] if donors else []
        same = [d for d in turn if _register(neighbour, d) == _register(example, row)] or turn
        other = [d for d in same if neighbour.phrases[d] != example.phrases[row]] or same
        phrases += [neighbour.phrases[d] for d in other[:1]]
    return _Questions(example, tuple(phrases), rows[: len(phrases)])


def _register(example: Example, row: int) -> str:
    return example.registers[row] if example.registers else ""


def _ask(predictor: Predictor, questions: _Questions, result: Result) -> None:
    example = questions.example
    assert example.masks is not None
    result.examples += 1
    result.frames += len(example.frames)
    if not questions.phrases:
        return
    start = time.perf_counter()
    try:
        clip = predictor.encode(example.frames, target_frames=_targets(example))
        answers = predictor.segment(clip, questions.phrases)
    except InvalidInput as error:
        raise InvalidInput(f"{example.name}: {error}") from error
    result.predicting_seconds += time.perf_counter() - start
    result.phrases += len(answers)
    for row, answer in zip(questions.rows, answers, strict=True):
        result.overlaps.add(answer.masks, example.masks[row], register=_register(example, row))


def _targets(example: Example) -> list[int] | None:
    return None if example.target_frames is None else example.target_frames.tolist()


def _timed(items: Iterator[_Questions]) -> Iterator[tuple[_Questions, float]]:
    """Each item with the seconds that making it took."""
    while True:
        start = time.perf_counter()
        item = next(items, None)
        if item is None:
            return
        yield item, time.perf_counter() - start


def _progress(items: Iterator[_Questions], total: int) -> Iterator[_Questions]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shows = sys.stderr.isatty()
    yield from track(items, "evaluating", total=total, console=console, transient=True, disable=not shows)
