"""How far the scores of an evaluation are to be believed: as what is there, and as what is right.

Two readings of one score. *Existence*: something in the picture or clip answers to the phrase; it is what a user reads who
looks for absent things. *Hit*: the answer has an IoU of one half or more; it is what a user reads who sorts answers by score.
A family whose score means one of them is not at fault for the other; both are printed, neither is hidden.

The reliability diagram of a report, as SVG that needs no script: how often a score of each height was true.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from refseg.evaluation.plan import OWN
from refseg.evaluation.records import ExampleRecord, PhraseRecord
from refseg.metrics.calibration import BINS, Bin, Calibration, calibration

HIT = 0.5
"""The IoU from which an answer counts as right."""


CLAIMS = {"existence": "something answers to the phrase", "hit": f"the mask has IoU >= {HIT}"}


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """The calibration of a score under both readings, over all phrases that have one."""

    existence: Calibration
    hit: Calibration

    def by_claim(self) -> Iterator[tuple[str, Calibration]]:
        """The readings by their names in `CLAIMS`."""
        yield from (("existence", self.existence), ("hit", self.hit))


def calibrate_scores(done: Sequence[ExampleRecord]) -> ScoreCalibration | None:
    """What the scores of an evaluation are worth; None where the checkpoint gives none, or nothing could be compared."""
    rows = [row for example in done for row in example.rows if row.score is not None and row.views]
    if not rows:
        return None
    scores = [row.score for row in rows if row.score is not None]
    return ScoreCalibration(
        existence=calibration(scores, [has_target(row) for row in rows]),
        hit=calibration(scores, [_is_hit(row) for row in rows]),
    )


def has_target(row: PhraseRecord) -> bool:
    """Whether something answers to the phrase: as the data set states, else whether its target has a pixel."""
    return not row.says_nothing if row.says_nothing is not None else row.pixels(OWN.name)[2] > 0


def _is_hit(row: PhraseRecord) -> bool:
    intersection, answer, target = row.pixels(OWN.name)
    return target > 0 and intersection >= HIT * (answer + target - intersection)


def calibration_rows(trust: ScoreCalibration | None) -> list[list[str]]:
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


def calibration_record(trust: ScoreCalibration | None) -> dict[str, Any] | None:
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


_SIDE, _LEFT, _BOTTOM, _TOP = 220, 44, 34, 26  # pixels of the square and of the margins around it


_TRUE, _GAP = "#3b78c4", "#e63c28"


def diagrams(trust: ScoreCalibration) -> str:
    """One diagram a reading, side by side."""
    return "".join(_diagram(CLAIMS[name], found) for name, found in trust.by_claim())


def _diagram(title: str, found: Calibration) -> str:
    width, height = _LEFT + _SIDE + 14, _TOP + _SIDE + _BOTTOM
    inner = "".join([*_bars(found), *_axes()])
    label = f"{title}: ECE {100 * found.ece:.1f} %, {found.phrases} phrases"
    heading = f'<text x="{_LEFT}" y="16" font-size="12" fill="currentColor">{_escaped(label)}</text>'
    return (
        f'<svg role="img" aria-label="{_escaped(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{heading}{inner}</svg>'
    )


def _bars(found: Calibration) -> Iterator[str]:
    """A bar a bin, as opaque as it holds phrases; the gap to the mean score stands out."""
    most = max(row.count for row in found.bins)
    for row in found.bins:
        if not row.count:
            continue
        x, width = _LEFT + row.low * _SIDE + 0.5, (row.high - row.low) * _SIDE - 1
        opacity = 0.35 + 0.65 * row.count / most
        told = f"<title>{row.count} phrases, mean score {row.score:.3f}, true {row.share:.3f}</title>"
        bar = f'fill="{_TRUE}" fill-opacity="{opacity:.2f}"'
        yield _box(x, width, 0.0, row.share, paint=bar, inside=told)
        gap = f'fill="{_GAP}" fill-opacity="0.45"'
        yield _box(x, width, *sorted((row.share, row.score)), paint=gap, inside=told)


def _box(x: float, width: float, low: float, high: float, *, paint: str, inside: str) -> str:
    """A box over the shares from `low` to `high`."""
    y, height = _y(high), (high - low) * _SIDE
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {paint}>{inside}</rect>'


def _axes() -> Iterator[str]:
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    line = 'stroke="currentColor" stroke-width="1" fill="none"'
    yield f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" {line}/>'
    yield f'<line x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{_TOP}" {line} stroke-dasharray="4 3"/>'
    words = 'font-size="11" fill="currentColor"'
    for tick in (0.0, 0.5, 1.0):
        yield f'<text x="{_LEFT + tick * _SIDE:.0f}" y="{bottom + 13}" text-anchor="middle" {words}>{tick:g}</text>'
        yield f'<text x="{_LEFT - 5}" y="{_y(tick) + 4:.0f}" text-anchor="end" {words}>{tick:g}</text>'
    middle = _TOP + _SIDE / 2
    yield f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 28}" text-anchor="middle" {words}>score</text>'
    yield f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})" {words}>true</text>'


def _y(share: float) -> float:
    return _TOP + (1 - share) * _SIDE


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
