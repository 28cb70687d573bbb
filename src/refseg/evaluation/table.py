"""Results for people, as a table, and for machines, as plain data.

The named protocols as a table: what `refseg evaluate --protocols` prints, and what stands in the documentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from refseg.evaluation.calibration import calibration_record, calibration_rows
from refseg.evaluation.run import PROTOCOL
from refseg.metrics.overlap import THRESHOLDS
from refseg.metrics.protocols import OF_DATASETS, PROTOCOLS, Protocol

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.evaluation.machine import Machine
    from refseg.evaluation.run import Result
    from refseg.evaluation.scoring import ProtocolScores
    from refseg.metrics.overlap import Score


def result_table(result: Result, published: Sequence[Published] = ()) -> str:
    """One row a register, and one for all phrases; percent. Below it what was measured, how, and how fast.

    Where there are several protocols, or `published` numbers, they stand side by side in a second table.
    """
    measured = [scored for scored in result.scored() if scored.values]
    several = (
        len(measured) > 1
        or bool(measured and published)
        or any(scored.protocol.name != "source" for scored in measured)
    )
    has_targets = any(row.views for example in result.done for row in example.rows)
    parts = [_registers_table(result)] if has_targets or not result.done else []
    parts += [protocols_table(measured, published)] if several else []
    if result.done and not has_targets:
        parts.append(
            "the masks of this part are not public: answers were written, and nothing could be measured here"
        )
    if has_targets and not result.is_shuffled:
        parts.append(aligned(calibration_rows(result.trust())))
    parts.append(_cost(result))
    return "\n\n".join(parts) if several else "\n".join(parts)


def protocols_table(measured: Sequence[ProtocolScores], published: Sequence[Published] = ()) -> str:
    """A column a protocol, a row a metric; beside them the numbers of the authors, and below what each column means."""
    metrics = list(dict.fromkeys(name for scored in measured for name in scored.values))
    known = {number.metric: number for number in published}
    metrics += [name for name in known if name not in metrics]
    heads = ["", *(scored.protocol.name for scored in measured), *(["authors"] if known else [])]
    rows = []
    for name in metrics:
        cells = [_format_value(scored, name) for scored in measured]
        cells += [f"{known[name].value:g}" if name in known else "-"] if known else []
        rows.append([name, *cells])
    notes = [f"{scored.protocol.name}: {scored.protocol.title}" for scored in measured]
    notes += [
        f"run {number + 1} of {scored.protocol.name}: " + ", ".join(_pairs(scored, run))
        for scored in measured
        for number, run in enumerate(scored.runs)
    ]
    notes += [f"authors: {text}" for text in dict.fromkeys(_format_published(number) for number in published)]
    return "\n".join([aligned([heads, *rows]), *notes])


def _format_value(scored: ProtocolScores, name: str) -> str:
    return scored.protocol.show(scored.values[name]) if name in scored.values else ""


def _pairs(scored: ProtocolScores, run: Mapping[str, float]) -> list[str]:
    return [f"{name} {scored.protocol.show(value)}" for name, value in run.items()]


def _format_published(number: Published) -> str:
    return f"{number.protocol} ({number.where})"


def _registers_table(result: Result) -> str:
    has_clips = result.frames > result.examples
    heads = ["register", "phrases", "mIoU", "oIoU", *(f"P@{x}" for x in THRESHOLDS), *(["J"] * has_clips)]
    heads += ["kept", "no target", "refused"]
    rows = [[name, *_cells(score, has_clips)] for name, score in _scores(result)]
    control = "CONTROL: every phrase was asked of another example\n" if result.is_shuffled else ""
    return f"{control}{aligned([heads, *rows])}\n{PROTOCOL}"


def _cost(result: Result) -> str:
    earlier = f", {result.resumed} examples from an earlier run" if result.resumed else ""
    return (
        f"{result.data}: {result.examples} examples, {result.frames} frames, {result.phrases} phrases; "
        f"{result.predicting_seconds:.1f} s predicting ({_rate(result.frames, result.predicting_seconds)} frames/s, "
        f"{_rate(result.phrases, result.predicting_seconds)} phrases/s), {result.reading_seconds:.1f} s reading{earlier}"
    )


def result_record(result: Result, machine: Machine, **facts: Any) -> dict[str, Any]:
    """The result as plain data for JSON; scores are in [0, 1], null where no phrase of the kind was there.

    Args:
        facts: what else should stand in the record: the checkpoint, the options.
    """
    return {
        **facts,
        "data": {
            "name": result.data,
            "examples": result.examples,
            "frames": result.frames,
            "phrases": result.phrases,
            "shuffled_phrases": result.is_shuffled,
        },
        "protocol": PROTOCOL,
        "scores": {name: score_record(score) for name, score in _scores(result)},
        "protocols": {scored.protocol.name: _protocol_record(scored) for scored in result.scored()},
        "calibration": calibration_record(result.trust()),
        "speed": {
            "predicting_seconds": result.predicting_seconds,
            "reading_seconds": result.reading_seconds,
            "frames_per_second": _finite(_ratio(result.frames, result.predicting_seconds)),
            "phrases_per_second": _finite(_ratio(result.phrases, result.predicting_seconds)),
        },
        "machine": asdict(machine),
    }


def _protocol_record(scored: ProtocolScores) -> dict[str, Any]:
    return {
        "means": scored.protocol.title,
        "source": scored.protocol.source,
        "scores": {name: _finite(value) for name, value in scored.values.items()},
        "runs": [{name: _finite(value) for name, value in run.items()} for run in scored.runs],
    }


def score_record(score: Score) -> dict[str, Any]:
    """A score as plain data; the names of metrics are those of the tables."""
    precision = {f"P@{x}": value for x, value in zip(THRESHOLDS, score.precision, strict=True)}
    shares = {"mIoU": score.miou, "oIoU": score.oiou, **precision, "J": score.j, "kept": score.kept}
    return {
        "phrases": score.phrases,
        **{name: _finite(value) for name, value in shares.items()},
        "no_target": score.no_target,
        "refused": _finite(score.refused),
    }


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _scores(result: Result) -> list[tuple[str, Score]]:
    """By register in alphabetical order where there are several or one has a name, and then of all phrases."""
    registers = sorted(result.overlaps.registers)
    apart = registers if registers != [""] else []
    return [(name or "(none named)", result.score(name)) for name in apart] + [("all", result.score())]


def _cells(score: Score, has_clips: bool) -> list[str]:
    overlaps = [score.miou, score.oiou, *score.precision, *([score.j] if has_clips else []), score.kept]
    return [str(score.phrases), *map(_percent, overlaps), str(score.no_target), _percent(score.refused)]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _rate(count: int, seconds: float) -> str:
    rate = _ratio(count, seconds)
    return "-" if math.isnan(rate) else f"{rate:.1f}"


def _ratio(count: int, seconds: float) -> float:
    return count / seconds if seconds else math.nan


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


HEADS = ["protocol", "compared", "both empty", "P@X", "prints", "convention of"]


def protocol_rows() -> list[list[str]]:
    """One row a protocol: name, size, what two empty masks are worth, thresholds, metrics, origin."""
    return [
        [
            protocol.name,
            _compared(protocol),
            _empty(protocol),
            _thresholds(protocol),
            ", ".join(protocol.metrics),
            protocol.source,
        ]
        for protocol in PROTOCOLS.values()
    ]


def protocol_text() -> str:
    """The protocols for a terminal, with the data sets whose publishers fixed one."""
    lines = []
    for protocol, (name, compared, empty, thresholds, metrics, source) in zip(
        PROTOCOLS.values(), protocol_rows(), strict=True
    ):
        precision = "" if thresholds == "-" else f"; P@X: {thresholds}"
        lines += [
            f"{name}: {protocol.title}",
            f"    prints {metrics}; compared: {compared}; two empty masks: {empty}{precision}; from {source}",
        ]
    fixed = [f"{name} ({', '.join(one.name for one in chosen)})" for name, chosen in OF_DATASETS.items()]
    return "\n".join([*lines, f"fixed by the data set: {', '.join(fixed)}"])


def protocol_markdown() -> str:
    """The table for a page."""
    rows = [HEADS, ["---"] * len(HEADS), *protocol_rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _compared(protocol: Protocol) -> str:
    if protocol.kind == "boxes" or all(metric.startswith("box") for metric in protocol.metrics):
        return "boxes, source pixels"
    size = "source" if protocol.at == "source" else "network input"
    frames = {"all": "", "labelled": ", labelled frame", "inner": ", all frames but first and last"}
    threshold = f", scores > {protocol.mask_threshold}" if protocol.mask_threshold else ""
    parts = ", overlapping parts are no target" if protocol.overlapping_parts != "union" else ""
    window = f", clips of {protocol.window}" if protocol.window else ""
    return size + frames[protocol.frames] + threshold + parts + window


def _empty(protocol: Protocol) -> str:
    if protocol.kind == "generalised":
        return "right where refused"
    if protocol.kind == "boxes":
        return "right"
    return "left out" if protocol.empty is None else f"{protocol.empty:.0f}"


def _thresholds(protocol: Protocol) -> str:
    if not any(metric.endswith("P@X") for metric in protocol.metrics):
        return "-"
    sign = ">=" if protocol.counts_equal else ">"
    lift = f", {protocol.lift:g} added" if protocol.lift else ""
    single = " in float32" if protocol.single_precision else ""
    first, second, last = protocol.thresholds[0], protocol.thresholds[1], protocol.thresholds[-1]
    return f"IoU {sign} {first:.2g}, {second:.2g}, ..., {last:.2g}{lift}{single}"
