"""The last touch after training: scores that mean what they say, fitted on examples that training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refseg.data.catalog import PhraseDataset
from refseg.evaluation.run import evaluate
from refseg.evaluation.trust import has_target
from refseg.metrics.calibration import Scaling, calibration, fit_scaling, logits_of
from refseg.models.base import ReferringModel
from refseg.predictor import Predictor


@dataclass(frozen=True)
class Fitted:
    """What was found, and the expected calibration error on the examples that it was found on."""

    scaling: Scaling
    phrases: int
    ece_before: float
    ece_after: float

    def __str__(self) -> str:
        return (
            f"temperature {self.scaling.temperature:.4f}, bias {self.scaling.bias:+.4f}, from {self.phrases} phrases; "
            f"expected calibration error there {100 * self.ece_before:.2f} before, {100 * self.ece_after:.2f} after"
        )


def calibrate(model: ReferringModel, examples: Sequence[PhraseDataset], *, device: str = "cpu") -> Fitted:
    """Fits temperature and bias of the model's score to whether anything answers to a phrase; its weights take both in.

    Raises:
        InvalidInput: if the family's score cannot be rescaled, or the examples tell no temperature.
    """
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
    return Fitted(scaling, len(scores), before, after)
