"""The last act of a run: the checkpoint is evaluated as its file stands there, and its model card is written beside it."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import refseg
from refseg import distributed
from refseg.checkpoints import native, zoo
from refseg.data.catalog import PhraseDataset
from refseg.data.fingerprint import fingerprint
from refseg.data.published import is_published, published
from refseg.errors import RefsegError
from refseg.evaluation import model_card
from refseg.evaluation.machine import this_machine
from refseg.evaluation.run import evaluate
from refseg.evaluation.setup import Request, prepare
from refseg.evaluation.table import result_record
from refseg.models import catalog
from refseg.predictor import Predictor
from refseg.training.config import RunConfig
from refseg.training.lengths import examples_per_step
from refseg.training.log import LOG_NAME
from refseg.training.resume import RUN_NAME
from refseg.training.sources import SCENES, Sources, open_evaluation_data
from refseg.training.state import Workplace

_ROWS = 10  # of the table of losses
_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "opencv-python-headless", "Pillow", "accelerate")
_OURS = "Apache-2.0"


def finish_with_card(place: Workplace, examples: Sources) -> None:
    """Evaluates the best checkpoint of a finished run by `run.final_protocols` and writes README.md and card.json.

    All processes evaluate together, and the first one writes. The checkpoint is on disk before: whatever goes wrong here is
    told, on stderr and in the card, and costs the run nothing but the numbers.
    """
    found, why_not = _evaluated(place)
    if distributed.is_first():
        try:
            _write(place, examples, found, why_not)
        except (
            Exception
        ) as error:  # of any kind: hours of training are not to end in a traceback of their last minute
            _tell(f"the model card could not be written ({_told(error)}); the checkpoints are whole")
    distributed.wait()


def _evaluated(place: Workplace) -> tuple[dict[str, Any] | None, str]:
    """The evaluation, or why there is none."""
    why_not = _why_not(place)
    if why_not:
        return None, why_not
    path = _checkpoint(place)
    if distributed.any_of(path is None, place.device):
        return None, "not every process can read the checkpoint"
    assert path is not None, "every process has found it"
    try:
        return _measured(place, path), ""
    except distributed.Refused:  # another process failed, and says why
        return None, "the evaluation after training failed"
    except Exception as error:  # the card is written without numbers
        _tell(
            f"the evaluation after training failed ({_told(error)}); {path} is whole: {_again(place.run, path)}"
        )
        return None, f"the evaluation after training failed ({_told(error)})"


def _checkpoint(place: Workplace) -> Path | None:
    """The file that the folder of the run stands for; None where this process does not see it."""
    try:
        return zoo.resolve(place.folder.absolute())
    except RefsegError:
        return None


def _write(place: Workplace, examples: Sources, found: dict[str, Any] | None, why_not: str) -> None:
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


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _again(run: RunConfig, path: Path) -> str:
    data = run.data.evaluate_name or run.data.name or "DATA"
    page = path.parent / model_card.PAGE_NAME
    return f"refseg evaluate {path} {data} --split {run.data.evaluate_split or 'NAME'} --card-file {page} measures it"


def _why_not(place: Workplace) -> str:
    """Why nothing is measured; empty where it is."""
    run = place.run
    if not run.objective.startswith("phrases"):
        return f"the objective {run.objective} teaches no masks"
    if run.run.final_protocols == "none":
        return "the recipe asked for no evaluation (run.final_protocols)"
    if place.held_out is None and not run.run.final_examples:
        return "the recipe asked for no evaluation (run.evaluate_examples)"
    return ""


def _measured(place: Workplace, path: Path) -> dict[str, Any]:
    header, predictor = native.read_header(path), Predictor.load(path, device=place.device)
    dataset, asked = _final_data(place), place.run.run.final_protocols
    weights = {"name": path.name, "family": header.family, "variant": header.variant, "sha256": header.sha256}
    names = () if isinstance(asked, str) else asked
    with prepare(Request(protocols=names), dataset, weights) as ready:
        protocols = [one for one in ready.protocols if asked != "ours" or one.source == "refseg"]
        result = evaluate(predictor, dataset, protocols=protocols, window=ready.window)
    if not distributed.is_first():
        return {}  # the first process has the result of all examples
    record = result_record(result, this_machine(place.device), **ready.facts)
    return model_card.result_facts(result, record, ready.published)


def _final_data(place: Workplace) -> PhraseDataset:
    run, count = place.run, place.run.run.final_examples
    if count is None:
        assert place.held_out is not None, "a run without a measured set is not measured in the end"
        return place.held_out
    told = run.run.model_copy(update={"evaluate_examples": count})
    side = catalog.variant(run.family, run.variant).frame.size
    dataset = open_evaluation_data(run.model_copy(update={"run": told}), side)
    assert dataset is not None, "a count of examples asks for a set"
    return dataset


def _training(place: Workplace, examples: Sources) -> dict[str, Any]:
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


def _pairs(examples: Sources, run: RunConfig) -> Iterator[tuple[Any, Any]]:
    """Every source with the set of the recipe that it comes from."""
    each = run.data.each
    for number, source in enumerate(examples.sources):
        yield source, each[min(number, len(each) - 1)]


def _set(examples: PhraseDataset, split: str) -> dict[str, Any]:
    told = {"split": split or "all"} | fingerprint(examples)
    return told | ({"licence": published(examples.name).licence} if is_published(examples.name) else {})


def _summary(place: Workplace, steps: Sequence[Mapping[str, Any]]) -> str:
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
    told = {"refseg": refseg.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def _licence(run: RunConfig, examples: Sources) -> dict[str, Any]:
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
