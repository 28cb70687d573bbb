"""Validation during a run: what the weights so far are worth on examples that training does not see."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from refseg import distributed
from refseg.data.collate import collate
from refseg.data.dataset import PhraseDataset
from refseg.errors import InvalidInput
from refseg.evaluation.run import Result, evaluate
from refseg.evaluation.work_queue import Codec, distribute
from refseg.metrics.overlap import THRESHOLDS
from refseg.models.base import Objective, ReferringModel
from refseg.predictor import Predictor
from refseg.training.schema import DEFAULT_SCORE, RunConfig

_AVERAGES = ("running_mean", "running_var")

LOSS = "loss"
"""The sum of an objective's terms."""


@dataclass(frozen=True)
class Measurement:
    """Named numbers, and the one by which the best checkpoint is chosen."""

    scores: Mapping[str, float]
    quality: float  # higher is better


def measure_phrases(
    model: ReferringModel, examples: PhraseDataset, *, device: torch.device, best_by: str = "mIoU"
) -> Measurement:
    """What a user would get: overlaps at source size over all phrases, and mIoU of every register.

    Several processes share the examples out and get the same measurement; all ask for it together.

    The quality is the score called `best_by`, such as the mIoU or the oIoU of phrases that have a target.

    Raises:
        InvalidInput: if there is no score of that name.
    """
    share_averages(model)
    result = evaluate(Predictor(model, device=device), examples)
    return _measure_on_first(lambda: _of_phrases(result, best_by))


def share_averages(model: ReferringModel) -> None:
    """Gives the model of every process the averages of the first one's batch norms, which is the one that is saved.

    They differ between processes whose norms see the examples of their own process alone.
    """
    distributed.copy_from_first(
        [buffer for name, buffer in model.named_buffers() if name.endswith(_AVERAGES)]
    )


def _of_phrases(result: Result, best_by: str) -> Measurement:
    overall = result.score()
    scores = {"mIoU": overall.miou, "oIoU": overall.oiou, f"P@{THRESHOLDS[0]}": overall.precision[0]}
    for register in sorted(filter(None, result.overlaps.registers)):
        scores[f"mIoU {register}"] = result.score(register).miou
    scores |= {"kept": overall.kept, "refused": overall.refused}
    if best_by not in scores:
        raise InvalidInput(f"run.best_by is {best_by!r}, and a measurement knows {', '.join(scores)}")
    told = {name: score for name, score in scores.items() if not math.isnan(score)}
    return Measurement(told, quality=told.get(best_by, 0.0))


def check_score(best_by: str) -> None:
    """Refuses, before a run begins, a name that no measurement will give.

    Raises:
        InvalidInput: if there is no score of that name; "mIoU" of a register is one.
    """
    known = ("mIoU", "oIoU", f"P@{THRESHOLDS[0]}", "kept", "refused")
    if best_by not in known and not best_by.startswith("mIoU "):
        raise InvalidInput(
            f"run.best_by is {best_by!r}, and a measurement knows {', '.join(known)}, and mIoU of each register such as "
            "'mIoU app'"
        )


@torch.no_grad()
def measure_objective(
    model: ReferringModel,
    examples: PhraseDataset,
    objective: Objective,
    *,
    batch_size: int,
    device: torch.device,
    best_by: str = LOSS,
) -> Measurement:
    """The mean terms of a named objective; the quality is minus the sum of them, or minus the one called `best_by`.

    Several processes share the batches out and get the same measurement; all ask for it together.

    Raises:
        InvalidInput: if there is no term of that name.
    """
    share_averages(model)
    model.to(device).eval()

    def terms(start: int) -> dict[str, float]:
        numbers = range(start, min(start + batch_size, len(examples)))
        batch = collate([examples[index] for index in numbers], model.config.frame)
        with distributed.without_sync():  # others hold batches of other sizes, or none any more
            found = objective(model, batch.to(device))
        return {name: float(term) * len(numbers) / len(examples) for name, term in found.items()}

    totals: dict[str, float] = defaultdict(float)
    for found in distribute(range(0, len(examples), batch_size), terms, Codec(json.dumps, json.loads)):
        for name, term in found.items():
            totals[name] += term
    return _measure_on_first(lambda: _of_objective(totals, best_by))


def deciding_score(run: RunConfig) -> str:
    """The score or the term that the best checkpoint is chosen by.

    Where the recipe of a named objective leaves the score of phrases, that is all terms together.
    """
    is_left = not measures_phrases(run) and run.run.best_by == DEFAULT_SCORE
    return LOSS if is_left else run.run.best_by


def measures_phrases(run: RunConfig) -> bool:
    """Whether a run is measured by the scores of phrases, of which more is better, and not by terms, of which less is."""
    return run.objective.startswith("phrases")


def _of_objective(totals: Mapping[str, float], best_by: str) -> Measurement:
    known = {LOSS: sum(totals.values()), **totals}
    if best_by not in known:
        raise InvalidInput(
            f"run.best_by is {best_by!r}, and a measurement of this objective knows {', '.join(known)}"
        )
    return Measurement(known, quality=-known[best_by])


def _measure_on_first(measure: Callable[[], Measurement]) -> Measurement:
    """What the first process, which has all results, makes of them."""
    found = distributed.broadcast(distributed.on_first(measure))
    assert found is not None, "the first process has told it"
    return found
