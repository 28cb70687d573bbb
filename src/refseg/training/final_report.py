"""The final report of a run: a table and summary.json, and the model card of its last checkpoint."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from refseg import distributed
from refseg.checkpoints import native, zoo
from refseg.data.dataset import PhraseDataset
from refseg.data.published import is_published, published
from refseg.errors import RefsegError
from refseg.evaluation import model_card
from refseg.evaluation.machine import this_machine
from refseg.evaluation.prepare import EvaluationRequest, prepare
from refseg.evaluation.run import evaluate
from refseg.evaluation.table import result_record
from refseg.files import write_whole_text
from refseg.models import catalog
from refseg.predictor import Predictor
from refseg.training.checkpointing import best_at
from refseg.training.context import RunContext
from refseg.training.data import SCENES, TrainingSets, open_evaluation_data
from refseg.training.log import duration
from refseg.training.recipe import examples_per_step
from refseg.training.run_folder import ADAPTERS_NAME, BEST_NAME, LAST_NAME, LOG_NAME, RUN_NAME, SUMMARY_NAME
from refseg.training.schema import RunConfig
from refseg.training.signals import Interrupted
from refseg.training.state import TrainState, steps_of
from refseg.training.validation import deciding_score, measures_phrases
from refseg.version import __version__

_FACTS = ("step", "lr", "norm", "seconds", "waiting", "skipped", "evaluation")


def report_summary(training: TrainState, place: RunContext, *, is_short: bool = False) -> None:
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
def report_if_stopped(training: TrainState, place: RunContext) -> Iterator[None]:
    """Lets a run that was asked to stop say in a line how far it came."""
    try:
        yield
    except Interrupted:
        report_summary(training, place, is_short=True)
        raise


def summary(training: TrainState, place: RunContext) -> dict[str, Any]:
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
        "ended": _describe_end(training, place),
        "step": training.step,
        "steps": steps_of(place.run),
        "first": _means(steps[:width]),
        "last": _means(steps[-width:]),
        "best_by": deciding_score(place.run),
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


def _describe_end(training: TrainState, place: RunContext) -> str:
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


def _files(training: TrainState, place: RunContext) -> dict[str, str]:
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


_ROWS = 10  # of the table of losses


_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "opencv-python-headless", "Pillow", "accelerate")


_OURS = "Apache-2.0"


def write_final_card(place: RunContext, examples: TrainingSets) -> None:
    """Evaluates the best checkpoint of a finished run by `run.final_protocols` and writes README.md and card.json.

    All processes evaluate together, and the first one writes. The checkpoint is on disk before: whatever goes wrong here is
    told, on stderr and in the card, and costs the run nothing but the numbers.
    """
    found, why_not = _evaluate(place)
    if distributed.is_first():
        try:
            _write(place, examples, found, why_not)
        except (
            Exception
        ) as error:  # of any kind: hours of training are not to end in a traceback of their last minute
            _tell(
                f"the model card could not be written ({_describe_error(error)}); the checkpoints are whole"
            )
    distributed.wait()


def _evaluate(place: RunContext) -> tuple[dict[str, Any] | None, str]:
    """The evaluation, or why there is none."""
    why_not = _why_not(place)
    if why_not:
        return None, why_not
    path = _checkpoint(place)
    if distributed.any_of(path is None, place.device):
        return None, "not every process can read the checkpoint"
    assert path is not None, "every process has found it"
    try:
        return _measure(place, path), ""
    except distributed.PeerFailed:  # another process failed, and says why
        return None, "the evaluation after training failed"
    except Exception as error:  # the card is written without numbers
        _tell(
            f"the evaluation after training failed ({_describe_error(error)}); {path} is whole: {_again(place.run, path)}"
        )
        return None, f"the evaluation after training failed ({_describe_error(error)})"


def _checkpoint(place: RunContext) -> Path | None:
    """The file that the folder of the run stands for; None where this process does not see it."""
    try:
        return zoo.resolve(place.folder.absolute())
    except RefsegError:
        return None


def _write(place: RunContext, examples: TrainingSets, found: dict[str, Any] | None, why_not: str) -> None:
    path, page = zoo.resolve(place.folder.absolute()), place.folder / model_card.PAGE_NAME
    header = native.read_header(path)
    model = model_card.model_facts(path, header, _num_parameters(header))
    facts = model_card.first_facts(place.run.name, model, _licence(place.run, examples))
    facts |= {"training": _training(place, examples), "unmeasured": why_not}
    if found is not None:
        facts = model_card.with_result(facts, found)
        place.log.say(found["table"])
    model_card.write_card(page, facts)
    place.log.say(f"{page} tells what {path.name} is and what it scores")


def _num_parameters(header: native.Header) -> int:
    with torch.device("meta"):
        model = catalog.build(header.family, native.config_of(header))
    return sum(parameter.numel() for parameter in model.parameters())


def _tell(sentence: str) -> None:
    """Says it even in a quiet run."""
    print(f"refseg: {sentence}", file=sys.stderr)


def _describe_error(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _again(run: RunConfig, path: Path) -> str:
    data = run.data.evaluate_name or run.data.name or "DATA"
    page = path.parent / model_card.PAGE_NAME
    return f"refseg evaluate {path} {data} --split {run.data.evaluate_split or 'NAME'} --card-file {page} measures it"


def _why_not(place: RunContext) -> str:
    """Why nothing is measured; empty where it is."""
    run = place.run
    if not run.objective.startswith("phrases"):
        return f"the objective {run.objective} teaches no masks"
    if run.run.final_protocols == "none":
        return "the recipe asked for no evaluation (run.final_protocols)"
    if place.held_out is None and not run.run.final_examples:
        return "the recipe asked for no evaluation (run.evaluate_examples)"
    return ""


def _measure(place: RunContext, path: Path) -> dict[str, Any]:
    header, predictor = native.read_header(path), Predictor.load(path, device=place.device)
    dataset, asked = _final_data(place), place.run.run.final_protocols
    weights = {"name": path.name, "family": header.family, "variant": header.variant, "sha256": header.sha256}
    names = () if isinstance(asked, str) else asked
    with prepare(EvaluationRequest(protocols=names), dataset, weights) as ready:
        protocols = [one for one in ready.protocols if asked != "ours" or one.source == "refseg"]
        result = evaluate(predictor, dataset, protocols=protocols, window=ready.window)
    if not distributed.is_first():
        return {}  # the first process has the result of all examples
    record = result_record(result, this_machine(place.device), **ready.facts)
    return model_card.result_facts(result, record, ready.published)


def _final_data(place: RunContext) -> PhraseDataset:
    run, count = place.run, place.run.run.final_examples
    if count is None:
        assert place.held_out is not None, "a run without a measured set is not measured in the end"
        return place.held_out
    told = run.run.model_copy(update={"evaluate_examples": count})
    side = catalog.variant(run.family, run.variant).frame.size
    dataset = open_evaluation_data(run.model_copy(update={"run": told}), side)
    assert dataset is not None, "a count of examples asks for a set"
    return dataset


def _training(place: RunContext, examples: TrainingSets) -> dict[str, Any]:
    """How the weights were made, as plain data."""
    run, lines = place.run, list(_log_lines(place.folder / LOG_NAME))
    steps = [line for line in lines if "loss" in line]
    measured = [line for line in lines if "evaluation" in line]
    return {
        "recipe": (place.folder / RUN_NAME).read_text(encoding="utf-8"),
        "summary": _summary(place, steps),
        "init": None if run.init is None else _init(run.init),
        "data": [_set(source.examples, own.split) for source, own in _pairs(examples, run)],
        "losses": list(_losses(steps)),
        "measurements": [{"step": line["step"], **line["evaluation"]} for line in measured],
        "versions": _versions(),
        "machine": this_machine(place.device).sentence(),
    }


def _pairs(examples: TrainingSets, run: RunConfig) -> Iterator[tuple[Any, Any]]:
    """Every source with the set of the recipe that it comes from."""
    each = run.data.each
    for number, source in enumerate(examples.sources):
        yield source, each[min(number, len(each) - 1)]


def _set(examples: PhraseDataset, split: str) -> dict[str, Any]:
    told = {"split": split or "all"} | examples.fingerprint()
    return told | ({"licence": published(examples.name).licence} if is_published(examples.name) else {})


def _summary(place: RunContext, steps: Sequence[Mapping[str, Any]]) -> str:
    run, processes = place.run, distributed.world_size()
    batch = examples_per_step(run, processes)
    seconds = math.fsum(line["seconds"] for line in steps)
    waited = math.fsum(line["seconds"] * line["waiting"] for line in steps)
    skipped = int(sum(line.get("skipped", 0) for line in steps))
    done = steps[-1]["step"] if steps else 0
    early = "" if done == run.run.steps else f" of {run.run.steps}"
    alone = "one process" if processes == 1 else f"{processes} processes"
    return (
        f"{done}{early} steps of {batch} examples on {alone} ({place.device}, {run.run.precision}): {seconds / 3600:.2f} hours "
        f"of steps, {waited / max(seconds, 1e-9):.0%} of them spent waiting for data; {skipped} examples skipped."
    )


def _init(name: str) -> dict[str, Any]:
    """What the run began with, as its file stands there now."""
    try:
        header = native.read_header(zoo.resolve(name))
    except RefsegError:
        return {"name": name, "sha256": "not to be found when the card was written", "origin": {}}
    return {"name": name, "sha256": header.sha256, "origin": dict(header.origin)}


def _log_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _losses(steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over equal parts of the run."""
    parts = min(_ROWS, len(steps))
    for number in range(parts):
        part = steps[number * len(steps) // parts : (number + 1) * len(steps) // parts]
        losses = [line["loss"] for line in part if line["loss"] is not None]
        yield {
            "step": part[-1]["step"],
            "loss": math.fsum(losses) / len(losses) if losses else None,
            "lr": part[-1]["lr"],
            "seconds a step": math.fsum(line["seconds"] for line in part) / len(part),
        }


def _versions() -> dict[str, str]:
    told = {"refseg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def _licence(run: RunConfig, examples: TrainingSets) -> dict[str, Any]:
    """Apache-2.0 where nothing but refseg's own work went into the weights; else what they rest on, for a person to weigh."""
    rests = []
    if run.init is not None:
        cards = {card.name: card.licence for card in zoo.list_checkpoints()}
        rests.append(
            {"what": f"first weights {run.init}", "licence": cards.get(run.init, "not known to refseg")}
        )
    for source in examples.sources:
        name = source.examples.name
        rests.append({"what": f"data {name}", "licence": _data_licence(name)})
    if all(one["licence"] == _OURS for one in rests):
        told = "The weights are under the Apache License 2.0, as refseg is: nothing else went into them."
        return {"id": _OURS.lower(), "name": _OURS, "told": told, "rests_on": rests}
    told = "refseg is under the Apache License 2.0; under what the weights may be passed on depends on what they rest on:"
    return {"id": "other", "name": "see-the-card", "told": told, "rests_on": rests}


def _data_licence(name: str) -> str:
    if name == SCENES:
        return _OURS
    return published(name).licence if is_published(name) else "not known to refseg"
