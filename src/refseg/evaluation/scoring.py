"""From counts to the numbers of a protocol."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from refseg.evaluation.ranking import gives_boxes, ranked_scores
from refseg.evaluation.rows import Done, Row
from refseg.evaluation.views import Plan
from refseg.metrics.contour import statistics
from refseg.metrics.generalised import Refusable, generalised_scores
from refseg.metrics.protocols import Protocol
from refseg.metrics.scores import Pixels, mean, overlap_scores, threshold_name


@dataclass(frozen=True, slots=True)
class Scored:
    """The numbers of one protocol, as shares; its metrics in their order."""

    protocol: Protocol
    values: dict[str, float]
    runs: tuple[dict[str, float], ...] = field(
        default=()
    )  # where the mean of several runs is printed: each one


def scored(done: Sequence[Done], protocol: Protocol, plan: Plan) -> Scored:
    """What `protocol` says of the examples."""
    if protocol.kind == "objects":
        return _objects(done, protocol)
    rows = [row for example in done for row in example.rows]
    if protocol.kind == "ranked":
        records = [
            (
                f"{row.id or ''} {example.index:08d} {row.number:04d}",
                row.ranked,
            )  # samples are ordered by text
            for example in done
            for row in example.rows
            if row.ranked
        ]
        only_boxes = all(metric.startswith("box") for metric in protocol.metrics)
        if not records or (only_boxes and not gives_boxes(records)):
            return Scored(protocol, {})
        return Scored(protocol, _named(ranked_scores(records, protocol), protocol))
    if protocol.kind == "video":
        return Scored(protocol, _named(_video(rows, protocol), protocol))
    view = plan.view(protocol).name
    if protocol.kind == "generalised":
        return Scored(protocol, _named(_generalised(rows, protocol, view), protocol))
    return Scored(protocol, _named(overlap_scores(_pixels(rows, view), protocol), protocol))


def _named(values: dict[str, float], protocol: Protocol) -> dict[str, float]:
    """The metrics that the protocol prints, in its order; "P@X" becomes one a threshold."""
    named = {}
    for metric in protocol.metrics:
        if metric.endswith("P@X"):
            prefix = metric.removesuffix("P@X")
            for threshold in protocol.thresholds:
                name = prefix + threshold_name(threshold)
                named[name] = values.get(name, math.nan)
        else:
            named[metric] = values.get(metric, math.nan)
    return named


def _pixels(rows: Iterable[Row], view: str = "source") -> list[Pixels]:
    return [Pixels(*row.pixels(view), mean(row.contour)) for row in rows]


def _video(rows: Sequence[Row], protocol: Protocol) -> dict[str, float]:
    """J and F are means over frames, and then over phrases; the rest pools the frames of a phrase."""
    counted = [row for row in rows if protocol.empty is not None or row.pixels()[2]]
    region, contour = mean(_region(row) for row in counted), mean(mean(row.contour) for row in counted)
    return overlap_scores(_pixels(rows), protocol) | {
        "J": region,
        "F": contour,
        "J&F": (region + contour) / 2,
    }


def _region(row: Row) -> float:
    """Mean over frames of IoU, 1 where both masks are empty."""
    frames = zip(*row.views["source"], strict=True)
    return mean(i / (a + t - i) if a + t else 1.0 for i, a, t in frames)


def _generalised(rows: Sequence[Row], protocol: Protocol, view: str) -> dict[str, float]:
    refusable = []
    for row in rows:
        intersection, answer, target = row.pixels(view)
        if answer < protocol.smallest_mask:
            intersection, answer = 0, 0
        has_target = not row.says_nothing if row.says_nothing is not None else target > 0
        refusable.append(Refusable(intersection, answer + target - intersection, has_target, answer == 0))
    total = generalised_scores(refusable, protocol)
    n_acc, t_acc = total.n_acc, total.t_acc
    if protocol.source != "refseg":
        n_acc, t_acc = total.published_accuracies
    return {"gIoU": total.giou, "cIoU": total.ciou, "N-acc": n_acc, "T-acc": t_acc, **total.precision}


def _objects(done: Sequence[Done], protocol: Protocol) -> Scored:
    """Each run is evaluated on its own, over all objects of all videos; the mean over runs is what is reported."""
    runs: dict[int, list[dict[str, list[list[float]]]]] = {}
    for example in done:
        for entry in example.objects:
            if entry["protocol"] == protocol.name:
                runs.setdefault(entry["run"], []).append(entry)
    each = tuple(_run(entries) for _, entries in sorted(runs.items()))
    metrics = {metric: mean(run[metric] for run in each) for metric in protocol.metrics} if each else {}
    return Scored(protocol, metrics, each)


def _run(entries: Sequence[dict[str, list[list[float]]]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, name in (("J", "region"), ("F", "contour")):
        told = [statistics(np.array(series)) for entry in entries for series in entry[name]]
        values[key] = mean(one.mean for one in told)
        values[f"{key}-recall"] = mean(one.recall for one in told)
        values[f"{key}-decay"] = mean(one.decay for one in told)
    return {"J&F": (values["J"] + values["F"]) / 2, **values}
