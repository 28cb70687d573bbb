"""Whether a score means what it says: of the phrases answered with 0.8, does a target exist for eight in ten?

Conventions (papers differ in them; the number of bins is given beside every result):

- A score is the predicted probability of one event, here that something in the picture answers to the phrase; it is held
  against how often the event was there. This is the calibration of a binary event (Naeini and others, AAAI 2015), not of
  the winning class of a classifier: a score of 0.1 for absent things is as good as one of 0.9 for present ones.
- ECE: bins of equal width over [0, 1]; the mean over bins of |mean score - share of events|, weighted by the phrases of
  each bin. A bin holds the scores above its lower edge and up to its upper edge, the first one 0 too (Guo and others,
  ICML 2017, equation 3).
- Adaptive ECE: the same with bins of equal count. Equal scores stay in one bin, so that the order of phrases says nothing.
- Brier score: the mean of (score - event) squared. It also falls when scores separate better, which ECE does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refseg.errors import InvalidInput

BINS = 15
"""Bins of the published studies, and ours where no number is given."""

_MOST_STEPS = 100  # Newton's method needs under 20; more means that there is no minimum
_FLAT = 1e-12  # a step that promises less than this has arrived


@dataclass(frozen=True, slots=True)
class Bin:
    """The phrases of one range of scores."""

    low: float  # of an adaptive bin: its smallest and its largest score
    high: float
    count: int
    score: float  # mean; nan in an empty bin
    share: float  # of phrases for which the event was there; nan in an empty bin

    @property
    def gap(self) -> float:
        """How far the mean score is from the truth; positive where it promises too much."""
        return self.score - self.share


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far the scores of some phrases are to be believed; all numbers are nan where there was no phrase."""

    phrases: int
    events: int  # phrases for which the event was there
    ece: float
    adaptive_ece: float
    brier: float
    bins: tuple[Bin, ...]  # of equal width: the reliability table
    adaptive: tuple[Bin, ...]  # of equal count


def calibration(scores: Sequence[float], events: Sequence[bool], *, bins: int = BINS) -> Calibration:
    """The calibration of `scores` in [0, 1] that each predict one of `events`.

    Raises:
        InvalidInput: if the lengths differ, a score is outside [0, 1], or `bins` is not positive.
    """
    if bins < 1:
        raise InvalidInput(f"calibration was asked for in {bins} bins; give 1 or more")
    predicted, happened = _checked(scores, events)
    if ((predicted < 0) | (predicted > 1)).any():
        wrong = predicted[(predicted < 0) | (predicted > 1)][0]
        raise InvalidInput(f"a score is a probability in [0, 1], and one is {wrong}")
    equal = _table(predicted, happened, _of_equal_width(predicted, bins), np.arange(bins + 1) / bins)
    adaptive = _table(predicted, happened, _of_equal_count(predicted, bins), None)
    brier = float(np.mean((predicted - happened) ** 2)) if len(predicted) else math.nan
    return Calibration(
        phrases=len(predicted),
        events=int(happened.sum()),
        ece=_ece(equal),
        adaptive_ece=_ece(adaptive),
        brier=brier,
        bins=equal,
        adaptive=adaptive,
    )


def _checked(scores: Sequence[float], events: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    if len(scores) != len(events):
        raise InvalidInput(f"{len(scores)} scores predict {len(events)} events; give one score for each")
    predicted = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(predicted).all():
        raise InvalidInput(f"a score is {predicted[~np.isfinite(predicted)][0]}, which is no finite number")
    return predicted, np.asarray(events, dtype=bool)


def _of_equal_width(scores: np.ndarray, bins: int) -> np.ndarray:
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)


def _of_equal_count(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin of a score by how many are smaller, which is the same for equal scores."""
    smaller = np.searchsorted(np.sort(scores), scores, side="left")
    return smaller * bins // max(1, len(scores))


def _table(
    scores: np.ndarray, events: np.ndarray, places: np.ndarray, edges: np.ndarray | None
) -> tuple[Bin, ...]:
    """One row a bin; without edges only the bins that hold a phrase, from their smallest to their largest score."""
    rows = []
    for number in range(len(edges) - 1) if edges is not None else np.unique(places).tolist():
        here = places == number
        low, high = (
            (edges[number], edges[number + 1])
            if edges is not None
            else (scores[here].min(), scores[here].max())
        )
        means = [float(part[here].mean()) if here.any() else math.nan for part in (scores, events)]
        rows.append(Bin(float(low), float(high), int(here.sum()), *means))
    return tuple(rows)


def _ece(rows: Sequence[Bin]) -> float:
    total = sum(row.count for row in rows)
    return math.fsum(row.count * abs(row.gap) for row in rows if row.count) / total if total else math.nan


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes a score honest: logits are divided by `temperature`, then `bias` is added.

    A linear layer that gives the logit can take both in itself: weights / temperature, and its bias / temperature + bias.
    """

    temperature: float
    bias: float

    def score(self, logits: np.ndarray | Sequence[float]) -> np.ndarray:
        """Probabilities of scaled logits."""
        return _sigmoid(np.asarray(logits, dtype=np.float64) / self.temperature + self.bias)


def fit_scaling(logits: Sequence[float], events: Sequence[bool]) -> Scaling:
    """The temperature and the bias under which `events` are most likely (Platt, 1999); the minimum is global and unique.

    Where one logit separates the events without a mistake, no finite temperature is the most likely one. The targets are
    then those that Platt gives in section 2.2: (n + 1) / (n + 2) instead of 1 for n events, 1 / (m + 2) instead of 0 for m
    absences. They say how sure so few examples allow one to be, and the more examples, the nearer they are to 1 and 0.

    Fit on examples that were not trained on and that no result is measured on: other seeds of the training split, say.
    The share of events should be that of later use; `bias` follows it.

    Raises:
        InvalidInput: if all events are alike, or all logits are; or if higher logits mean fewer events.
    """
    values, happened = _checked(logits, events)
    there, absent = values[happened], values[~happened]
    if not len(there) or not len(absent):
        raise InvalidInput(
            f"{len(there)} events and {len(absent)} absences tell no temperature; give examples of both"
        )
    if values.max() == values.min():
        raise InvalidInput(
            f"all logits are equal ({values[0]:.4g}), so no temperature can be fitted; give examples whose scores differ"
        )
    targets = happened.astype(np.float64)
    if absent.max() <= there.min() or there.max() <= absent.min():
        targets = np.where(happened, (len(there) + 1) / (len(there) + 2), 1 / (len(absent) + 2))
    centre, spread = values.mean(), values.std()
    columns = np.stack([(values - centre) / spread, np.ones_like(values)], axis=1)
    slope, shift = _newton(columns, targets).tolist()
    if slope <= 0:
        raise InvalidInput(
            "higher logits go with fewer events, so no temperature makes them probabilities; look whether the events are "
            "the right way round"
        )
    return Scaling(temperature=float(spread / slope), bias=float(shift - slope * centre / spread))


def logits_of(scores: Sequence[float]) -> np.ndarray:
    """Logits of probabilities; those that single precision rounds to 0 or 1 get the nearest it can tell from them."""
    least = float(np.finfo(np.float32).eps) / 2
    clipped = np.clip(np.asarray(scores, dtype=np.float64), least, 1 - least)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _newton(columns: np.ndarray, events: np.ndarray) -> np.ndarray:
    """The weights of a logistic regression; a step that does not lower the loss is halved."""
    weights = np.zeros(2)
    loss = _entropy(columns @ weights, events)
    for _ in range(_MOST_STEPS):
        scores = _sigmoid(columns @ weights)
        gradient = columns.T @ (scores - events) / len(events)
        curvature = (columns * (scores * (1 - scores))[:, None]).T @ columns / len(events)
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        if gradient @ step < _FLAT:
            return weights
        while (lower := _entropy(columns @ (weights - step), events)) > loss and np.abs(step).max() > _FLAT:
            step = step / 2
        weights, loss = weights - step, min(loss, lower)
    raise InvalidInput("no temperature was found in these logits; give more examples")


def _entropy(logits: np.ndarray, events: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - events * logits))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))  # overflows nowhere
