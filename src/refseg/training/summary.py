"""What came of a run, in one table at its end and as data in summary.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refseg import distributed
from refseg.files import write_whole_text
from refseg.training.adapter_file import ADAPTERS_NAME
from refseg.training.best import best_at
from refseg.training.interruption import Interrupted
from refseg.training.log import LOG_NAME, duration
from refseg.training.measure import deciding, measures_phrases
from refseg.training.resume import BEST_NAME, LAST_NAME, SUMMARY_NAME
from refseg.training.state import Training, Workplace, steps_of

_FACTS = ("step", "lr", "norm", "seconds", "waiting", "skipped", "evaluation")


def tell_summary(training: Training, place: Workplace, *, is_short: bool = False) -> None:
    """Prints the table of a run and writes summary.json; the first process does so.

    Arguments:
        is_short: one line without scores, for a run that was asked to stop.
    """
    if not distributed.is_first():
        return
    found = summary(training, place)
    write_whole_text(place.folder / SUMMARY_NAME, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for line in [_head(found)] if is_short else table(found):
        place.log.say(line)


@contextmanager
def told_if_stopped(training: Training, place: Workplace) -> Iterator[None]:
    """Lets a run that was asked to stop say in a line how far it came."""
    try:
        yield
    except Interrupted:
        tell_summary(training, place, is_short=True)
        raise


def summary(training: Training, place: Workplace) -> dict[str, Any]:
    """Losses at both ends, scores, time and files of a run, as plain data.

    A loss at an end is the mean over `run.log_every` steps.
    """
    steps = _steps_of_log(place.folder / LOG_NAME)
    width, kept = place.run.run.log_every, training.kept
    seconds = sum(step["seconds"] for step in steps)
    parameters = list(training.model.parameters())
    return {
        "run": place.run.name,
        "family": place.run.family,
        "variant": place.run.variant,
        "ended": _ended(training, place),
        "step": training.step,
        "steps": steps_of(place.run),
        "first": _means(steps[:width]),
        "last": _means(steps[-width:]),
        "best_by": deciding(place.run),
        "best_score": kept.best if kept.best is None or measures_phrases(place.run) else -kept.best,
        "best_step": kept.ranking[0][1] if kept.ranking else None,
        "best_scores": kept.best_scores,
        "last_scores": kept.scores,
        "seconds": round(seconds, 3),
        "data_share": _share(steps, seconds),
        "skipped": training.skipped,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "files": _files(training, place),
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """The lines of a summary for people."""
    lines = [_head(found)]
    if found["last"]:
        lines += _columns(("", "first", "last"), _rows(found["last"], found["first"], found["last"]))
    if found["best_scores"]:
        head = ("", f"best, step {found['best_step']}", "last measured")
        lines += _columns(head, _rows(found["best_scores"], found["best_scores"], found["last_scores"]))
    if found["skipped"]:
        lines.append(f"{found['skipped']} examples were skipped; log.jsonl counts them by step")
    return [*lines, *(f"{name}: {path}" for name, path in found["files"].items())]


def _ended(training: Training, place: Workplace) -> str:
    if training.step >= steps_of(place.run):
        return "finished"
    return "early" if training.kept.has_ended(place.run.run) else "stopped"


def _head(found: Mapping[str, Any]) -> str:
    why = {
        "finished": "finished",
        "early": "ended early, for want of a gain,",
        "stopped": "was asked to stop",
    }[found["ended"]]
    line = f"{found['run']} {why} after step {found['step']} of {found['steps']}"
    if found["step"] and found["last"]:
        line += (
            f": {duration(found['seconds'])} of steps, {found['seconds'] / found['step']:.3f} s each, "
            f"{found['data_share']:.0%} of it waiting for data; loss {found['first']['loss']:.4g} to {found['last']['loss']:.4g}"
        )
    return line


def _steps_of_log(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if "loss" in line]


def _means(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every loss term over some steps; of a step in which it is no number, nothing is taken."""
    names = [name for name in (steps[-1] if steps else {}) if name not in _FACTS]
    means = {}
    for name in names:
        values = [step[name] for step in steps if isinstance(step.get(name), int | float)]
        if values:
            means[name] = sum(values) / len(values)
    return means


def _share(steps: Sequence[Mapping[str, Any]], seconds: float) -> float:
    waited = sum(step["waiting"] * step["seconds"] for step in steps)
    return round(waited / seconds, 4) if seconds else 0.0


def _files(training: Training, place: Workplace) -> dict[str, str]:
    names = {"best": BEST_NAME, "last": LAST_NAME, "adapters": ADAPTERS_NAME, "log": LOG_NAME}
    if place.run.run.keep_best > 1:
        names |= {f"best at {step}": best_at(step) for _, step in training.kept.ranking}
    paths = {what: place.folder / name for what, name in names.items()}
    return {what: str(path) for what, path in paths.items() if path.exists()}


def _rows(names: Mapping[str, Any], *columns: Mapping[str, float]) -> list[tuple[str, ...]]:
    return [
        (name, *(f"{column[name]:.4g}" if name in column else "-" for column in columns)) for name in names
    ]


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Cells under each other: names to the left, numbers to the right."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]
