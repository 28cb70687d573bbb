"""Results for people, as a table, and for machines, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from refseg.evaluation.run import PROTOCOL
from refseg.metrics.overlap import THRESHOLDS

if TYPE_CHECKING:
    from refseg.evaluation.machine import Machine
    from refseg.evaluation.run import Result
    from refseg.metrics.overlap import Score


def result_table(result: Result) -> str:
    """One row a register, and one for all phrases; percent. Below it what was measured, how, and how fast."""
    has_clips = result.frames > result.examples
    heads = ["register", "phrases", "mIoU", "oIoU", *(f"P@{x}" for x in THRESHOLDS), *(["J"] * has_clips)]
    heads += ["kept", "no target", "refused"]
    rows = [[name, *_cells(score, has_clips)] for name, score in _scores(result)]
    control = "CONTROL: every phrase was asked of another example\n" if result.is_shuffled else ""
    return (
        f"{control}{aligned([heads, *rows])}\n"
        f"{PROTOCOL}\n"
        f"{result.data}: {result.examples} examples, {result.frames} frames, {result.phrases} phrases; "
        f"{result.predicting_seconds:.1f} s predicting ({_rate(result.frames, result.predicting_seconds)} frames/s, "
        f"{_rate(result.phrases, result.predicting_seconds)} phrases/s), {result.reading_seconds:.1f} s reading"
    )


def result_record(result: Result, machine: Machine, **facts: Any) -> dict[str, Any]:
    """The result as plain data for JSON; scores are in [0, 1], null where no phrase of the kind was there.

    Args:
        facts: what else should stand in the record: the checkpoint, the options.
    """
    return {
        **facts,
        "data": {
            "name": result.data,
            "examples": result.examples,
            "frames": result.frames,
            "phrases": result.phrases,
            "shuffled_phrases": result.is_shuffled,
        },
        "protocol": PROTOCOL,
        "scores": {name: score_record(score) for name, score in _scores(result)},
        "speed": {
            "predicting_seconds": result.predicting_seconds,
            "reading_seconds": result.reading_seconds,
            "frames_per_second": _finite(_ratio(result.frames, result.predicting_seconds)),
            "phrases_per_second": _finite(_ratio(result.phrases, result.predicting_seconds)),
        },
        "machine": asdict(machine),
    }


def score_record(score: Score) -> dict[str, Any]:
    """A score as plain data; the names of metrics are those of the tables."""
    precision = {f"P@{x}": value for x, value in zip(THRESHOLDS, score.precision, strict=True)}
    shares = {"mIoU": score.miou, "oIoU": score.oiou, **precision, "J": score.j, "kept": score.kept}
    return {
        "phrases": score.phrases,
        **{name: _finite(value) for name, value in shares.items()},
        "no_target": score.no_target,
        "refused": _finite(score.refused),
    }


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _scores(result: Result) -> list[tuple[str, Score]]:
    """By register in alphabetical order where there are several or one has a name, and then of all phrases."""
    registers = sorted(result.overlaps.registers)
    apart = registers if registers != [""] else []
    return [(name or "(none named)", result.score(name)) for name in apart] + [("all", result.score())]


def _cells(score: Score, has_clips: bool) -> list[str]:
    overlaps = [score.miou, score.oiou, *score.precision, *([score.j] if has_clips else []), score.kept]
    return [str(score.phrases), *map(_percent, overlaps), str(score.no_target), _percent(score.refused)]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _rate(count: int, seconds: float) -> str:
    rate = _ratio(count, seconds)
    return "-" if math.isnan(rate) else f"{rate:.1f}"


def _ratio(count: int, seconds: float) -> float:
    return count / seconds if seconds else math.nan


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
