"""The reliability diagram of a report, as SVG that needs no script: how often a score of each height was true."""

from __future__ import annotations

from collections.abc import Iterator

from refseg.evaluation.trust import CLAIMS, Trust
from refseg.metrics.calibration import Calibration

_SIDE, _LEFT, _BOTTOM, _TOP = 220, 44, 34, 26  # pixels of the square and of the margins around it
_TRUE, _GAP = "#3b78c4", "#e63c28"


def diagrams(trust: Trust) -> str:
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
