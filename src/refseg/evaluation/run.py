"""What an example is asked: its own phrases, or in the control those of its neighbour.

Answers of a predictor, finished in as many ways as the protocols of an evaluation ask for.

A checkpoint on a data set: every phrase is asked as a user would ask it, and its answer compared with the target.

One example is in memory at a time, of a long clip one window. What is kept of an answer are whole numbers of pixels; the
metrics of every protocol are computed from them in the end (`scoring`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.evaluation import scoring
from refseg.evaluation.calibration import ScoreCalibration, calibrate_scores
from refseg.evaluation.examples import ClipChunk, check_masks, chunks
from refseg.evaluation.plan import OWN, AnswerPlan, View, centre_of, counts_of, join_counts, target_on_canvas
from refseg.evaluation.records import ExampleRecord, Journal, PhraseRecord, as_line, from_line
from refseg.evaluation.scoring import ProtocolScores, rank_candidates, score_records
from refseg.evaluation.work_queue import Codec, distribute
from refseg.metrics.contour import contour_accuracies
from refseg.metrics.overlap import Overlap, Overlaps, Score
from refseg.metrics.protocols import HONEST, Protocol

if TYPE_CHECKING:
    from refseg.data.dataset import PhraseDataset
    from refseg.evaluation.submission import Writer
    from refseg.models.base import Candidates, ReferringModel
    from refseg.predictor import EncodedClip, Predictor
    from refseg.structures import Example, Output, Placement


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


def choose_questions(
    example: Example, dataset: PhraseDataset, index: int, neighbours: int | None
) -> Questions:
    """The phrases of `example`; of its neighbour where it is one of so many `neighbours`."""
    if neighbours is None:
        return Questions(example.phrases, tuple(range(len(example.phrases))))
    neighbour = dataset[(index - 1) % neighbours]
    if example.masks is None or neighbour.masks is None:
        raise InvalidInput(f"{example.name} of {dataset.name} has no masks; the control compares with masks")
    return _exchange_phrases(example, neighbour)


def _exchange_phrases(example: Example, neighbour: Example) -> Questions:
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


_MOST_PIXELS = 1 << 28  # of masks that are held at once


@dataclass(slots=True)
class Answer:
    """All that is asked of one phrase about one clip, or a piece of it."""

    score: float | None
    masks: dict[View, Tensor]  # [T', H, W] bool on the CPU, at the size of their view
    placement: Placement | None = None
    candidates: Candidates | None = None
    soft: Tensor | None = None  # [T', H, W] scores at source size


def ask(
    predictor: Predictor, clip: EncodedClip, phrases: Sequence[str], plan: AnswerPlan
) -> Iterator[Answer]:
    """The answers to `phrases`, in their order; few at a time where masks are large.

    Where nothing but the user's own masks is asked for, this is `Predictor.segment`.

    Raises:
        InvalidInput: as `Predictor.segment`.
    """
    needs_more = len(plan.views) > 1 or plan.takes_candidates or plan.merges_objects
    if not needs_more:
        for answer in predictor.segment(clip, phrases):
            yield Answer(answer.score, {OWN: answer.masks})
        return
    height, width = clip.source
    step = max(1, _MOST_PIXELS // (height * width * len(clip.target_frames)))
    for start in range(0, len(phrases), step):
        for output in predictor.outputs(clip, phrases[start : start + step]):
            yield from _finish(predictor.model, output, clip.placement, plan)


def _finish(
    model: ReferringModel, output: Output, placement: Placement, plan: AnswerPlan
) -> Iterator[Answer]:
    placements = [placement] * len(output.mask_logits)
    with torch.no_grad():
        _, scores = model.choose(output)
        masks = {view: _masks(model, output, placements, view) for view in _answer_views(plan)}
        candidates = model.candidates(output, placements) if plan.takes_candidates else None
        soft = model.soft_masks(output, placements) if plan.merges_objects else None
    for row in range(len(placements)):
        yield Answer(
            score=None if scores is None else float(scores[row]),
            masks={view: masks[View(view.at, view.threshold)][row].cpu() for view in plan.views},
            placement=placement,
            candidates=None if candidates is None else candidates[row],
            soft=None if soft is None else soft[row].cpu(),
        )


def _answer_views(plan: AnswerPlan) -> set[View]:
    """Views without their reading of the target, which answers do not depend on."""
    return {View(view.at, view.threshold) for view in plan.views}


def _masks(
    model: ReferringModel, output: Output, placements: Sequence[Placement], view: View
) -> list[Tensor]:
    with _threshold(model, view.threshold):
        return model.finish(output, placements, view.at)


@contextmanager
def _threshold(model: ReferringModel, threshold: float | None) -> Iterator[None]:
    own = model.config
    try:
        if threshold is not None:
            model.config = replace(own, threshold=threshold)
        yield
    finally:
        model.config = own


PROTOCOL = HONEST.title


T = TypeVar("T")


@dataclass(slots=True)
class Result:
    """What a checkpoint scored on a data set, and how long it took."""

    data: str  # name of the data set
    plan: AnswerPlan = field(default_factory=lambda: AnswerPlan((HONEST,)))
    done: list[ExampleRecord] = field(default_factory=list)  # in the order of the data set
    is_shuffled: bool = False  # the control: every phrase came from another example
    resumed: int = 0  # examples that an earlier, stopped evaluation had done

    @property
    def examples(self) -> int:
        """Pictures or clips."""
        return len(self.done)

    @property
    def frames(self) -> int:
        """Frames of all of them."""
        return sum(example.frames for example in self.done)

    @property
    def phrases(self) -> int:
        """Phrases asked."""
        return sum(len(example.rows) for example in self.done)

    @property
    def reading_seconds(self) -> float:
        """Opening or drawing the examples."""
        return sum(example.reading_seconds for example in self.done)

    @property
    def predicting_seconds(self) -> float:
        """From frames and phrases to masks."""
        return sum(example.predicting_seconds for example in self.done)

    @property
    def overlaps(self) -> Overlaps:
        """The user's own masks against the targets, by register."""
        overlaps = Overlaps()
        for example in self.done:
            for row in example.rows:
                if row.views:
                    counts = [torch.tensor(column) for column in row.views[OWN.name]]
                    overlaps.rows.setdefault(row.register, []).append(Overlap(*counts))
        return overlaps

    def score(self, *registers: str) -> Score:
        """The score of some registers together; of all phrases where none is named."""
        return self.overlaps.score(*registers)

    def trust(self) -> ScoreCalibration | None:
        """How far scores are to be believed; None where there are none, and of the control, whose phrases are of others."""
        return None if self.is_shuffled else calibrate_scores(self.done)

    def scored(self) -> list[ProtocolScores]:
        """The numbers of every protocol, in the order asked for; none where there was nothing to compare with."""
        if not any(row.views for example in self.done for row in example.rows):
            return []
        return [score_records(self.done, protocol, self.plan) for protocol in self.plan.protocols]


def evaluate(
    predictor: Predictor,
    dataset: PhraseDataset,
    *,
    limit: int | None = None,
    shuffle_phrases: bool = False,
    shows_progress: bool = False,
    protocols: Sequence[Protocol] = (HONEST,),
    window: int | None = None,
    journal: Journal | None = None,
    writer: Writer | None = None,
) -> Result:
    """Asks `predictor` every phrase of (the first `limit` examples of) `dataset`.

    Several processes that have been started together share the examples out: all call this alike, the first one gets the
    result of all examples, the very one that it would have had alone, and the others that of their own.

    Args:
        limit: so many examples at most; None is all.
        shuffle_phrases: the control: each example is asked the phrases of its neighbour, and must score far lower if
            the words decide. Phrases without a target are left out of it.
        shows_progress: a bar on stderr, where that is a terminal.
        protocols: conventions to measure by; what each needs is taken in one pass.
        window: frames of a clip that are answered at once, 0 for all; None is what the protocols say.
        journal: keeps every example as it is done; those that it already holds are not asked again. Of several processes
            the first has it.
        writer: takes the masks as well, for a submission; a data set without masks needs one.

    Raises:
        InvalidInput: if there is nothing to evaluate, an example has no masks, a phrase cannot be read by the model, or
            another process was killed.
        Refused: if another process raised.
    """
    total = len(dataset) if limit is None else min(limit, len(dataset))

    def prepare() -> _Task:
        check_count(dataset, total, with_neighbour=shuffle_phrases)
        plan = AnswerPlan(tuple(protocols), _threshold_of(predictor), _readings(dataset), window)
        if plan.takes_candidates:
            predictor.model.tell_candidates()
        return _Task(predictor, dataset, plan, writer, total if shuffle_phrases else None)

    task = distributed.on_all(prepare)
    known = distributed.broadcast({} if journal is None else _resume_from(journal, total, writer))
    left = [index for index in range(total) if index not in known]
    found = dict(known)
    results = distribute(left, task.example, Codec(as_line, from_line))
    for done in _progress(results, len(left)) if shows_progress else results:
        found[done.index] = done
        if journal is not None:
            journal.add(done)
    result = Result(data=dataset.name, plan=task.plan, is_shuffled=shuffle_phrases, resumed=len(known))
    result.done = [found[index] for index in range(total) if index in found]
    if writer is not None and distributed.is_first():
        _check_submission_holds(writer, result.done)
    return result


def _resume_from(journal: Journal, total: int, writer: Writer | None) -> dict[int, ExampleRecord]:
    """The examples that an earlier evaluation has done, with their masks where these are to be written."""
    done = {index: journal.done[index] for index in range(total) if index in journal.done}
    return {index: one for index, one in done.items() if writer is None or writer.has(one.name)}


def _check_submission_holds(writer: Writer, done: Sequence[ExampleRecord]) -> None:
    away = next((one.name for one in done if not writer.has(one.name)), None)
    if away is not None:
        raise InvalidInput(
            f"the masks of {away} are not in {writer.rows.parent}: another machine answered it; give a folder that all "
            "machines share"
        )


def _threshold_of(predictor: Predictor) -> float | None:
    model = getattr(predictor, "model", None)
    return None if model is None else model.config.threshold


def _readings(dataset: PhraseDataset) -> frozenset[str]:
    return frozenset({"union", "exactly-one"} if dataset.has_mask_rules else {"union"})


@dataclass(frozen=True, slots=True)
class _Task:
    """What stays the same from example to example."""

    predictor: Predictor
    dataset: PhraseDataset
    plan: AnswerPlan
    writer: Writer | None
    neighbours: int | None  # the control: so many examples exchange their phrases

    def example(self, index: int) -> ExampleRecord:
        """Everything that is asked about one example."""
        done, merged = ExampleRecord(index, "", 0, [0, 0]), scoring.Merged()
        window = None if self.neighbours else self.plan.window
        for piece, seconds in _time_each(chunks(self.dataset, index, window)):
            done.reading_seconds += seconds
            asked = choose_questions(piece.example, self.dataset, index, self.neighbours)
            if piece.is_first:
                _start_record(done, piece, asked)
            self._ask(piece, asked, done, merged)
            merged.end_piece()
        if self.plan.merges_objects and any(row.views for row in done.rows):
            self._compare_objects(index, merged, done)
        if self.writer is not None:
            self.writer.end_example(done.name, merged.maps())
        return done

    def _ask(self, piece: ClipChunk, asked: Questions, done: ExampleRecord, merged: scoring.Merged) -> None:
        example, plan = piece.example, self.plan
        takes_others = piece.other_targets is not None and any(view.parts != "union" for view in plan.views)
        others = piece.other_targets() if takes_others and piece.other_targets else None
        boxes = self.dataset.annotated_boxes(done.index) if plan.takes_candidates else []
        pairs = zip(done.rows, self._answers(piece, asked.phrases), strict=True)
        for (row, answer), seconds in _time_each(pairs):
            done.predicting_seconds += seconds
            row.score = _higher_score(row.score, answer.score)
            target = piece.target(row.number)
            if self.writer is None:
                check_masks(target, example.name, self.dataset)
            if target is not None:
                _count(row, answer, target, None if others is None else others[row.number], plan)
            if target is not None and answer.candidates is not None:
                box = boxes[row.number] if boxes else None
                row.ranked = rank_candidates(answer.candidates, target, box)
            if answer.soft is not None:
                merged.add(*scoring.run_and_label(row.id, example.name), answer.soft)
            if self.writer is not None:
                self.writer.add(example, row.number, answer.masks[OWN], piece.first)

    def _answers(self, piece: ClipChunk, phrases: Sequence[str]) -> Iterator[Answer]:
        if not phrases:
            return
        example = piece.example
        targets = None if example.target_frames is None else example.target_frames.tolist()
        try:
            clip = self.predictor.encode(example.frames, target_frames=targets)
            yield from ask(self.predictor, clip, phrases, self.plan)
        except InvalidInput as error:
            raise InvalidInput(f"{example.name}: {error}") from error

    def _compare_objects(self, index: int, merged: scoring.Merged, done: ExampleRecord) -> None:
        data = self.dataset
        truth = data.true_objects(index)
        if truth is None:
            raise InvalidInput(
                f"{data.name} does not tell which pixels are which object; this protocol is for Ref-DAVIS17"
            )
        annotated = scoring.index_maps(truth.masks, range(1, len(truth.masks) + 1))
        annotated[truth.void.numpy()] = scoring.VOID
        for protocol in self.plan.protocols:
            if protocol.kind == "objects":
                done.objects += scoring.compare(merged.maps(), annotated, protocol, done.name)


def _start_record(done: ExampleRecord, piece: ClipChunk, asked: Questions) -> None:
    example = piece.example
    done.name, done.frames, done.size = example.name, piece.total, list(example.frames.shape[-2:])
    for row, phrase in zip(asked.rows, asked.phrases, strict=True):
        says = None if example.no_target is None else bool(example.no_target[row])
        number = None if example.ids is None else example.ids[row]
        register = register_of(example, row)
        done.rows.append(PhraseRecord(row, phrase, register, None, id=number, says_nothing=says))


def _count(row: PhraseRecord, answer: Answer, target: Tensor, other: Tensor | None, plan: AnswerPlan) -> None:
    """Adds what one piece of a clip gives to the row of its phrase."""
    for view in plan.views:
        theirs = other if view.parts != "union" and other is not None else target
        if view.at == "canvas":
            assert answer.placement is not None, "an answer on the canvas knows where it lies"
            theirs = target_on_canvas(theirs, answer.placement)
        counts = counts_of(answer.masks[view], theirs)
        row.views[view.name] = (
            join_counts([row.views[view.name], counts]) if view.name in row.views else counts
        )
    row.centre = row.centre or centre_of(target)
    if plan.takes_contours:
        row.contour += contour_accuracies(answer.masks[OWN].numpy(), target.numpy()).tolist()


def _higher_score(one: float | None, other: float | None) -> float | None:
    """Of a clip answered in pieces, the score of the surest: what is found in one of them is in the clip."""
    return one if other is None else other if one is None else max(one, other)


def _time_each(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Each item with the seconds that making it took."""
    while True:
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - start


def _progress(results: Iterator[ExampleRecord], total: int) -> Iterator[ExampleRecord]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shows = sys.stderr.isatty() and distributed.is_first()
    yield from track(results, "evaluating", total=total, console=console, transient=True, disable=not shows)
