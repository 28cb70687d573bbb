"""One HTML page about an evaluation: the worst answers first, drawn, and the same numbers by kind of phrase.

The page needs no network and no other file. Pictures are opened again and asked again for the few phrases that are shown; the
numbers are those of the evaluation.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refseg.evaluation.calibration import diagrams
from refseg.evaluation.examples import chunks
from refseg.evaluation.records import ExampleRecord, PhraseRecord
from refseg.evaluation.table import result_table
from refseg.files import write_whole_text
from refseg.metrics.boundary import edges_of, grown
from refseg.metrics.scores import mean

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.data.dataset import PhraseDataset
    from refseg.evaluation.run import Result
    from refseg.predictor import Predictor

MOST_CASES = 48
_SIDE = 360  # pixels of the longer side of a drawn picture
_ANSWER = np.array([230, 60, 40], dtype=np.float32)
_TARGET = np.array([30, 200, 90], dtype=np.float32)

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1b1b1f;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.2rem}
pre{overflow-x:auto;background:#f4f4f6;padding:.8rem;border-radius:6px}
table{border-collapse:collapse;margin:.4rem 2rem 1rem 0;display:inline-table;vertical-align:top}
th,td{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}
figure{margin:0}
img{width:100%;border-radius:6px}
figcaption{font-size:.85rem}
.key span{padding:0 .5rem;border-radius:4px;color:#fff}
@media(prefers-color-scheme:dark){body{color:#e6e6ea;background:#17171a}pre{background:#222226}th,td{border-color:#444}}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One phrase, with what is said of it."""

    done: ExampleRecord
    row: PhraseRecord

    @property
    def iou(self) -> float:
        """IoU with the frames pooled; of a phrase without a target 1 where it was refused, else 0."""
        intersection, answer, target = self.row.pixels()
        union = answer + target - intersection
        return intersection / union if union else 1.0

    @property
    def share(self) -> float:
        """The target's share of the frames in which it is."""
        seen = [count for count in self.row.views["source"][2] if count]
        return mean(seen) / max(1, math.prod(self.done.size)) if seen else 0.0

    @property
    def frame(self) -> int:
        """The frame that is furthest off, by pixels."""
        frames = zip(*self.row.views["source"], strict=True)
        wrong = [answer + target - 2 * shared for shared, answer, target in frames]
        return wrong.index(max(wrong))


def write_report(
    path: Path,
    result: Result,
    predictor: Predictor,
    dataset: PhraseDataset,
    *,
    title: str,
    published: Sequence[Published] = (),
    most: int = MOST_CASES,
) -> None:
    """Writes the page.

    Raises:
        InvalidInput: if a picture that is to be drawn cannot be read any more.
    """
    cases = [Case(done, row) for done in result.done for row in done.rows if row.views]
    worst = sorted(cases, key=lambda case: (case.iou, -case.share))[:most]
    figures = {id(case): _figure(case, predictor, dataset, result) for case in _by_example(worst)}
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<pre>{html.escape(result_table(result, published))}</pre>",
        "<h2>By kind of phrase</h2>",
        *(_slices(heading, cases, name) for heading, name in SLICES.items()),
        *_reliability(result),
        f"<h2>The {len(worst)} answers that are furthest off</h2>",
        '<p class="key"><span style="background:#e63c28">answer</span> <span style="background:#1ec85a">target</span></p>',
        f'<div class="cases">{"".join(figures[id(case)] for case in worst)}</div>',
    ]
    write_whole_text(path, _page(title, parts))


def _page(title: str, parts: Iterable[str]) -> str:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return (
        f"<!doctype html><html lang='en'><head>{head}</head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _reliability(result: Result) -> list[str]:
    trust = result.trust()
    return [] if trust is None else ["<h2>How often a score is true</h2>", f"<p>{diagrams(trust)}</p>"]


def _by_example(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: (case.done.index, case.row.number))


def _slices(heading: str, cases: Sequence[Case], name: Callable[[Case], str]) -> str:
    """A table with one row a value of `name`; nothing where all cases have the same one."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(name(case), []).append(case)
    if len(groups) < 2:
        return ""
    rows = [
        f"<tr><td>{html.escape(key)}</td><td>{len(group)}</td><td>{100 * mean(c.iou for c in group):.1f}</td>"
        f"<td>{100 * mean(c.iou >= 0.5 for c in group):.1f}</td></tr>"
        for key, group in sorted(groups.items())
    ]
    head = f"<tr><th>{html.escape(heading)}</th><th>phrases</th><th>mIoU</th><th>P@0.5</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _size(case: Case) -> str:
    if not case.share:
        return "no target"
    limits = {0.01: "1: under 1 % of the frame", 0.05: "2: 1 to 5 %", 0.2: "3: 5 to 20 %"}
    return next((text for limit, text in limits.items() if case.share < limit), "4: over 20 %")


def _place(case: Case) -> str:
    if case.row.centre is None:
        return "no target"
    x, y = (min(2, int(3 * share)) for share in case.row.centre)
    return f"{('top', 'middle', 'bottom')[y]} {('left', 'centre', 'right')[x]}"


def _length(case: Case) -> str:
    words = len(case.row.phrase.split())
    return "1 or 2 words" if words < 3 else "3 to 5 words" if words < 6 else "6 words and more"


def _answered(case: Case) -> str:
    return "empty" if not case.row.pixels()[1] else "not empty"


SLICES: dict[str, Callable[[Case], str]] = {
    "register": lambda case: case.row.register or "(none named)",
    "size of the target": _size,
    "place of the target": _place,
    "length of the phrase": _length,
    "answer": _answered,
}


def _figure(case: Case, predictor: Predictor, dataset: PhraseDataset, result: Result) -> str:
    picture = _draw(case, predictor, dataset, None if result.is_shuffled else result.plan.window)
    frame = f", frame {case.frame + 1} of {case.done.frames}" if case.done.frames > 1 else ""
    score = "" if case.row.score is None else f", score {case.row.score:.2f}"
    text = f"IoU {case.iou:.2f}{score}{frame}, {case.done.name}"
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{picture}">'
        f"<figcaption><b>{html.escape(case.row.phrase)}</b><br>{html.escape(text)}</figcaption></figure>"
    )


def _draw(case: Case, predictor: Predictor, dataset: PhraseDataset, window: int | None) -> str:
    """The picture in base64: answer and target, tinted and with their contours."""
    place = case.frame
    for piece in chunks(dataset, case.done.index, window):
        example = piece.example
        targets = example.target_frames
        count = len(example.frames) if targets is None else len(targets)
        if place >= piece.first + count:
            continue
        at = place - piece.first
        clip = predictor.encode(example.frames, target_frames=None if targets is None else targets.tolist())
        (answer,) = predictor.segment(clip, [case.row.phrase])
        pixels = example.frames[at if targets is None else int(targets[at])]
        target = piece.target(case.row.number)
        drawn = None if target is None else target[at].numpy()
        return _jpeg(pixels.permute(1, 2, 0).numpy(), answer.masks[at].numpy(), drawn)
    raise AssertionError("a frame that was counted is in one of the pieces")


def _jpeg(pixels: np.ndarray, answer: np.ndarray, target: np.ndarray | None) -> str:
    from PIL import Image

    height, width = answer.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)).astype(np.float32)
    for mask, colour in ((target, _TARGET), (answer, _ANSWER)):
        if mask is None:
            continue
        small = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        edge = grown(edges_of(small), 1) > 0
        canvas[small] = 0.7 * canvas[small] + 0.3 * colour
        canvas[edge] = colour
    buffer = io.BytesIO()
    Image.fromarray(canvas.astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
