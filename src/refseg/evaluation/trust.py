"""How far the scores of an evaluation are to be believed: as what is there, and as what is right.

Two readings of one score. *Existence*: something in the picture or clip answers to the phrase; it is what a user reads who
looks for absent things. *Hit*: the answer has an IoU of one half or more; it is what a user reads who sorts answers by score.
A family whose score means one of them is not at fault for the other; both are printed, neither is hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from refseg.evaluation.rows import Done, Row
from refseg.evaluation.views import OWN
from refseg.metrics.calibration import BINS, Bin, Calibration, calibration

HIT = 0.5
"""The IoU from which an answer counts as right."""

CLAIMS = {"existence": "something answers to the phrase", "hit": f"the mask has IoU >= {HIT}"}


@dataclass(frozen=True, slots=True)
class Trust:
    """The calibration of a score under both readings, over all phrases that have one."""

    existence: Calibration
    hit: Calibration

    def by_claim(self) -> Iterator[tuple[str, Calibration]]:
        """The readings by their names in `CLAIMS`."""
        yield from (("existence", self.existence), ("hit", self.hit))


def trust_in(done: Sequence[Done]) -> Trust | None:
    """What the scores of an evaluation are worth; None where the checkpoint gives none, or nothing could be compared."""
    rows = [row for example in done for row in example.rows if row.score is not None and row.views]
    if not rows:
        return None
    scores = [row.score for row in rows if row.score is not None]
    return Trust(
        existence=calibration(scores, [has_target(row) for row in rows]),
        hit=calibration(scores, [_is_hit(row) for row in rows]),
    )


def has_target(row: Row) -> bool:
    """Whether something answers to the phrase: as the data set states, else whether its target has a pixel."""
    return not row.says_nothing if row.says_nothing is not None else row.pixels(OWN.name)[2] > 0


def _is_hit(row: Row) -> bool:
    intersection, answer, target = row.pixels(OWN.name)
    return target > 0 and intersection >= HIT * (answer + target - intersection)


def trust_rows(trust: Trust | None) -> list[list[str]]:
    """Cells of a table: a row a reading, percent; a dash where there is no score."""
    heads = ["score, taken as", "phrases", "true", "mean", f"ECE ({BINS} bins)", "adaptive", "Brier"]
    if trust is None:
        return [heads, ["(the checkpoint gives none)", *["-"] * 6]]
    return [heads, *([CLAIMS[name], *_cells(found)] for name, found in trust.by_claim())]


def _cells(found: Calibration) -> list[str]:
    total = found.phrases
    mean = math.fsum(row.count * row.score for row in found.bins if row.count) / total
    shares = (found.events / total, mean, found.ece, found.adaptive_ece)
    return [str(total), *(f"{100 * share:.1f}" for share in shares), f"{found.brier:.3f}"]


def trust_record(trust: Trust | None) -> dict[str, Any] | None:
    """The same as plain data, with the reliability tables; null where there is no score."""
    if trust is None:
        return None
    return {name: {"means": CLAIMS[name], **_record(found)} for name, found in trust.by_claim()}


def _record(found: Calibration) -> dict[str, Any]:
    return {
        "phrases": found.phrases,
        "true": found.events,
        "ece": found.ece,
        "adaptive_ece": found.adaptive_ece,
        "brier": found.brier,
        "bins": [_bin(row) for row in found.bins],
    }


def _bin(row: Bin) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in asdict(row).items()}
