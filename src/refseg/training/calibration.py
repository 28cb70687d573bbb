"""Calibration after training: scores that mean what they say, fitted on examples that training never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import PhraseDataset
from refseg.errors import InvalidInput
from refseg.evaluation.calibration import has_target
from refseg.evaluation.run import evaluate
from refseg.metrics.calibration import Scaling, calibration, fit_scaling, logits_of
from refseg.models.base import ReferringModel
from refseg.predictor import Predictor


@dataclass(frozen=True)
class CalibrationFit:
    """What was found, and the expected calibration error on the examples that it was found on."""

    scaling: Scaling
    phrases: int
    ece_before: float
    ece_after: float
    threshold: float | None = None  # of the score, where one was chosen

    def __str__(self) -> str:
        chosen = "" if self.threshold is None else f"; answers from a score of {self.threshold:.3f} on"
        return (
            f"temperature {self.scaling.temperature:.4f}, bias {self.scaling.bias:+.4f}, from {self.phrases} phrases; "
            f"expected calibration error there {100 * self.ece_before:.2f} before, {100 * self.ece_after:.2f} after{chosen}"
        )


def calibrate(
    model: ReferringModel,
    examples: Sequence[PhraseDataset],
    *,
    keep: float | None = None,
    device: str = "cpu",
) -> CalibrationFit:
    """Fits temperature and bias of the model's score to whether anything answers to a phrase; its weights take both in.

    With `keep`, the score from which on the model answers is set so that this share of the phrases with a target still gets
    an answer.

    Raises:
        InvalidInput: if the family's score cannot be rescaled or has no threshold, or the examples tell no temperature.
    """
    if keep is not None and not (0 < keep < 1 and hasattr(model.config, "existence_threshold")):
        raise InvalidInput(
            f"a share of {keep} to keep was asked of {type(model).__name__}; give one between 0 and 1, and a family that "
            "refuses below a score (scout)"
        )
    model.rescale_score(1.0, 0.0)  # a family that cannot says so before the long part
    scores: list[float] = []
    events: list[bool] = []
    for each in examples:
        for example in evaluate(Predictor(model, device=device), each, shows_progress=True).done:
            for row in example.rows:
                if row.score is not None and row.views:
                    scores.append(row.score)
                    events.append(has_target(row))
    logits = logits_of(scores)
    scaling = fit_scaling(logits.tolist(), events)
    model.rescale_score(scaling.temperature, scaling.bias)
    before, after = (calibration(list(s), events).ece for s in (scores, scaling.score(logits)))
    threshold = None if keep is None else _threshold(scaling.score(logits)[np.asarray(events)], keep)
    if threshold is not None:
        model.config = replace(model.config, existence_threshold=threshold)  # type: ignore[call-arg]
    return CalibrationFit(scaling, len(scores), before, after, threshold)


def _threshold(scores: NDArray[np.float64], keep: float) -> float:
    """The score, to three digits, that so large a share of `scores` reaches."""
    return math.floor(1000 * float(np.quantile(scores, 1 - keep))) / 1000
