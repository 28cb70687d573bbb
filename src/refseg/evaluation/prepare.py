"""What an evaluation needs beside a model and a data set: its protocols, its files, the authors' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg import distributed
from refseg.checkpoints import zoo
from refseg.data.published import ALIASES
from refseg.errors import InvalidInput, UnknownName
from refseg.evaluation.records import Journal
from refseg.evaluation.submission import Writer
from refseg.metrics.protocols import (
    HONEST,
    HONEST_VIDEO,
    PROTOCOLS,
    Protocol,
    honest_protocols,
    published_protocols,
)
from refseg.models import catalog

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.data.dataset import PhraseDataset


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What a person asks of an evaluation."""

    protocols: tuple[str, ...] = ()  # names; none is ours and the published one
    window: int | None = None  # frames at once; 0 is all, None what the protocol says
    rows: Path | None = None
    resumes: bool = False
    submission: Path | None = None
    shuffles: bool = False
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class EvaluationSetup:
    """What an evaluation runs with."""

    dataset: PhraseDataset  # read as the protocols ask
    protocols: tuple[Protocol, ...]
    window: int | None
    journal: Journal | None
    writer: Writer | None
    published: tuple[Published, ...]
    facts: dict[str, Any]  # for the record


@contextmanager
def prepare(
    request: EvaluationRequest, dataset: PhraseDataset, weights: dict[str, Any]
) -> Iterator[EvaluationSetup]:
    """Protocols, files and published numbers for `dataset` and the checkpoint that `weights` tells of.

    The dataset of the answer gives the text of phrases that the protocols ask for.

    Raises:
        UnknownName: if a protocol, or a submission of the data set, is unknown.
        InvalidInput: if the options contradict each other, or a file cannot be used.
    """
    if request.resumes and request.rows is None and request.submission is None:
        raise InvalidInput("--resume goes on from the file that --rows names; give both")
    protocols = choose_protocols(request, dataset, weights["family"])
    published = published_protocols(dataset.name, _protocols_of(weights["family"]))
    dataset = _with_window(_with_text(dataset, protocols, published), request.window)
    facts = {"checkpoint": weights, "source": dataset.describe(), "dtype": request.dtype}
    header = {
        **facts,
        "protocols": [protocol.name for protocol in protocols],
        "window": request.window,
        "shuffled": request.shuffles,
    }
    with ExitStack() as files:
        writer = None
        if request.submission is not None:
            joins = not distributed.is_first()
            writer = Writer(request.submission, dataset.name, resumes=request.resumes, joins=joins)
        rows = request.rows or (None if writer is None else writer.rows)
        journal = None
        if rows is not None and distributed.is_first():
            journal = files.enter_context(Journal(rows, header, resumes=request.resumes))
        numbers = authors_numbers(weights["name"], dataset)
        yield EvaluationSetup(dataset, protocols, request.window, journal, writer, numbers, facts)


def choose_protocols(request: EvaluationRequest, dataset: PhraseDataset, family: str) -> tuple[Protocol, ...]:
    """Those asked for; else ours and, where it differs, the published one of the family or the data set."""
    ours = honest_protocols(dataset.name)
    if ours == (HONEST,) and dataset.is_video_set:  # videos in the layout of a published set
        ours = (HONEST_VIDEO,)
    if request.shuffles and request.protocols:
        raise InvalidInput("the control is measured by our own protocol; leave out --protocol")
    if request.shuffles:
        return ours[:1]
    if not request.protocols:
        return (*ours, *published_protocols(dataset.name, _protocols_of(family)))
    for name in request.protocols:
        if name not in PROTOCOLS:
            raise UnknownName("protocol", name, PROTOCOLS)
        if PROTOCOLS[name].kind == "boxes":
            raise InvalidInput(
                f"the protocol {name} compares several boxes a phrase, which no model here gives"
            )
    return tuple(dict.fromkeys(PROTOCOLS[name] for name in request.protocols))


def _with_text(
    dataset: PhraseDataset, protocols: Sequence[Protocol], published: Sequence[Protocol]
) -> PhraseDataset:
    """Phrases as the protocols ask them, in every column: another text would be another question.

    Where they do not say, as the family's own protocol does: that is the text that it was trained with.
    """
    texts = {protocol.text for protocol in protocols if protocol.text is not None}
    if len(texts) > 1:
        raise InvalidInput(
            f"these protocols ask different texts of a phrase ({', '.join(sorted(texts))}); evaluate them one by one"
        )
    texts = texts or {protocol.text for protocol in published if protocol.text is not None}
    return dataset.with_options(text=texts.pop()) if texts else dataset


def _protocols_of(family: str) -> Mapping[str, Protocol]:
    return catalog.family(family).protocols


def _with_window(dataset: PhraseDataset, window: int | None) -> PhraseDataset:
    """Of sets with single labelled frames, the window is what surrounds such a frame."""
    if window is None or not dataset.is_windowed:
        return dataset
    if window == 0:
        raise InvalidInput(
            f"{dataset.name} asks about single frames; --window is how many frames around one are seen"
        )
    return dataset.with_options(window=window)


def authors_numbers(checkpoint: str, dataset: PhraseDataset) -> tuple[Published, ...]:
    """What the authors printed of this checkpoint on this part of this data set."""
    cards = {card.name: card for card in zoo.list_checkpoints()}
    card = cards.get(checkpoint) or cards.get(Path(checkpoint).stem)
    split = dataset.split
    if card is None:
        return ()
    return tuple(
        number
        for number in card.published
        if _is_same(number.dataset, dataset.name) and (split is None or _is_same_split(number.split, split))
    )


def _is_same(told: str, name: str) -> bool:
    return (
        ALIASES.get(told, told) == name
    )  # "refcocog" is its split by umd, as for everybody who says no more


def _is_same_split(told: str, split: str) -> bool:
    return told == split or {told, split} == {"val", "valid"}
