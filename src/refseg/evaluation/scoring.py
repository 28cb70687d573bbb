"""Several objects of one video on one index map, and how well it agrees with the annotated one.

Source: the published inference of ReferFormer on Ref-DAVIS17. Phrases of a video are numbered 4 k + a for object k and
annotator's run a; the objects of a run are merged and evaluated apart from the other runs.

All candidates of a phrase as plain data, and what COCO's evaluation makes of many of them.

From counts to the numbers of a protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.evaluation.plan import AnswerPlan
from refseg.evaluation.records import ExampleRecord, PhraseRecord
from refseg.metrics import contour
from refseg.metrics.average_precision import THRESHOLDS, RankedCodes, average_precision, best_boxes, best_of
from refseg.metrics.contour import statistics
from refseg.metrics.generalised import Refusable, generalised_scores
from refseg.metrics.protocols import Protocol
from refseg.metrics.scores import Pixels, mean, overlap_scores, threshold_name

if TYPE_CHECKING:
    from refseg.models.base import Candidates


RUNS = 4  # first-frame and full-video phrases of two annotators


BACKGROUND = 0.1  # score of "none of the objects"


LEAST_SCORE = 0.5  # an object's score below it counts as zero


VOID = 255


@dataclass(slots=True)
class Merged:
    """The index maps of every run of one video, filled object by object and piece by piece."""

    pieces: dict[int, list[Tensor]] = field(default_factory=dict)  # run: [t, H, W] uint8 each
    _best: dict[int, Tensor] = field(default_factory=dict)  # of the piece at hand: the highest score so far
    _labels: dict[int, Tensor] = field(default_factory=dict)

    def add(self, run: int, label: int, soft: Tensor) -> None:
        """The scores [t, H, W] of one object; among equal scores the one added first stays."""
        if run not in self._best:
            self._best[run] = torch.full_like(soft, BACKGROUND)
            self._labels[run] = torch.zeros(soft.shape, dtype=torch.uint8)
        wins = (soft >= LEAST_SCORE) & (soft > self._best[run])
        self._labels[run][wins] = label
        self._best[run][wins] = soft[wins]

    def end_piece(self) -> None:
        """The next scores are of later frames."""
        for run, labels in self._labels.items():
            self.pieces.setdefault(run, []).append(labels)
        self._best, self._labels = {}, {}

    def maps(self) -> dict[int, np.ndarray]:
        """Index maps [T, H, W] uint8 by run."""
        return {run: torch.cat(parts).numpy() for run, parts in sorted(self.pieces.items())}


def run_and_label(number: str | None, video: str) -> tuple[int, int]:
    """The run, and the label from 1, of the phrase that a data set numbers so.

    Raises:
        InvalidInput: if it is no number.
    """
    if number is None or not number.isdecimal():
        raise InvalidInput(
            f"{video}: phrase {number!r} has no number; objects are merged where phrases are numbered 4 x object + run"
        )
    return int(number) % RUNS, int(number) // RUNS + 1


def compare(
    maps: dict[int, np.ndarray], annotated: np.ndarray, protocol: Protocol, video: str
) -> list[dict[str, Any]]:
    """J and F of every object in every frame, for each run, as plain data.

    Args:
        annotated: [T, H, W] index maps, 255 where nothing counts.

    Raises:
        InvalidInput: if a map has another size, or more objects than the protocol takes.
    """
    void, objects = annotated == VOID, np.where(annotated == VOID, 0, annotated)
    entries = []
    for run, labels in maps.items():
        if labels.shape != annotated.shape:
            raise InvalidInput(f"{video}: answers are {labels.shape} and annotations {annotated.shape}")
        try:
            accuracy = _accuracy(labels, objects, void, protocol)
        except InvalidInput as error:
            raise InvalidInput(f"{video}, run {run}: {error}") from error
        entries.append(
            {
                "protocol": protocol.name,
                "run": run,
                "region": accuracy.region.tolist(),
                "contour": accuracy.contour.tolist(),
            }
        )
    return entries


def _accuracy(
    labels: np.ndarray, objects: np.ndarray, void: np.ndarray, protocol: Protocol
) -> contour.Accuracy:
    if protocol.matching == "number":
        return contour.semi_supervised(labels, objects)
    return contour.unsupervised(labels, objects, void)


def index_maps(masks: Sequence[Tensor] | Tensor, labels: Sequence[int]) -> np.ndarray:
    """Masks [N, T, H, W] of objects as index maps [T, H, W]; a later object covers an earlier one."""
    maps = torch.zeros(masks[0].shape, dtype=torch.uint8)
    for mask, label in zip(masks, labels, strict=True):
        maps[mask] = label
    return maps.numpy()


def rank_candidates(
    candidates: Candidates, target: Tensor, box: Sequence[float] | None = None
) -> dict[str, Any]:
    """Scores, run-length codes and boxes of all candidates for the one labelled frame, and the counts of the best one.

    Args:
        target: [1, H, W] bool.
        box: xyxy of the target as annotated; None reads it off the mask.

    Raises:
        InvalidInput: if the example has more than one frame with a target.
    """
    if len(target) != 1:
        raise InvalidInput(
            f"candidates are ranked in one labelled frame, and this clip has {len(target)}; choose another --protocol"
        )
    masks, best = candidates.masks[:, 0].cpu(), best_of(candidates.scores)
    record = {
        "size": list(target.shape[-2:]),
        "scores": candidates.scores.tolist(),
        "codes": [_counts(mask) for mask in masks],
        "target": _counts(target[0]),
        "best": [int(part.sum()) for part in (masks[best] & target[0], masks[best], target[0])],
    }
    if candidates.boxes is not None:
        record |= {"boxes": candidates.boxes.tolist(), "box": list(box) if box else _box_of(target[0])}
    return record


def score_ranking(records: Sequence[tuple[str, dict[str, Any]]], protocol: Protocol) -> dict[str, float]:
    """The metrics of a ranked protocol over named records: mAP over all candidates, overlap of the best one."""
    scores: dict[str, float] = {}
    if "mAP" in protocol.metrics:
        mean = average_precision([_encode(name, record) for name, record in records])
        scores |= {"mAP": mean.mean, "AP50": mean.at_50, "AP75": mean.at_75}
    best = [Pixels(*record["best"]) for _, record in records]
    scores |= overlap_scores(best, protocol)
    if gives_boxes(records):
        scores |= _box_scores([record for _, record in records])
    return scores


def gives_boxes(records: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    """Whether candidates came with boxes."""
    return all("boxes" in record for _, record in records)


def _box_scores(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    columns = ([torch.tensor(record[key]) for record in records] for key in ("scores", "boxes", "box"))
    best = best_boxes(*columns)
    shares = zip(THRESHOLDS, best.precision, strict=True)
    named = {f"box {threshold_name(threshold)}": share for threshold, share in shares}
    return named | {"box mIoU": best.mean_iou, "box oIoU": best.overall_iou}


def _encode(name: str, record: dict[str, Any]) -> RankedCodes:
    codes = [{"size": record["size"], "counts": counts} for counts in record["codes"]]
    target = {"size": record["size"], "counts": record["target"]}
    return RankedCodes(name, record["scores"], codes, target, record.get("boxes"))


def _counts(mask: Tensor) -> str:
    from pycocotools import mask as coding

    code = coding.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    text: str = code["counts"].decode("ascii")
    return text


def _box_of(mask: Tensor) -> list[float]:
    """The edges of a mask's box; zeros of an empty one."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return [0.0] * 4
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


@dataclass(frozen=True, slots=True)
class ProtocolScores:
    """The numbers of one protocol, as shares; its metrics in their order."""

    protocol: Protocol
    values: dict[str, float]
    runs: tuple[dict[str, float], ...] = field(
        default=()
    )  # where the mean of several runs is printed: each one


def score_records(done: Sequence[ExampleRecord], protocol: Protocol, plan: AnswerPlan) -> ProtocolScores:
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
            return ProtocolScores(protocol, {})
        return ProtocolScores(protocol, _rename(score_ranking(records, protocol), protocol))
    if protocol.kind == "video":
        return ProtocolScores(protocol, _rename(_video(rows, protocol), protocol))
    view = plan.view(protocol).name
    if protocol.kind == "generalised":
        return ProtocolScores(protocol, _rename(_generalised(rows, protocol, view), protocol))
    return ProtocolScores(protocol, _rename(overlap_scores(_pixels(rows, view), protocol), protocol))


def _rename(values: dict[str, float], protocol: Protocol) -> dict[str, float]:
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


def _pixels(rows: Iterable[PhraseRecord], view: str = "source") -> list[Pixels]:
    return [Pixels(*row.pixels(view), mean(row.contour)) for row in rows]


def _video(rows: Sequence[PhraseRecord], protocol: Protocol) -> dict[str, float]:
    """J and F are means over frames, and then over phrases; the rest pools the frames of a phrase."""
    counted = [row for row in rows if protocol.empty is not None or row.pixels()[2]]
    region, contour = mean(_region(row) for row in counted), mean(mean(row.contour) for row in counted)
    return overlap_scores(_pixels(rows), protocol) | {
        "J": region,
        "F": contour,
        "J&F": (region + contour) / 2,
    }


def _region(row: PhraseRecord) -> float:
    """Mean over frames of IoU, 1 where both masks are empty."""
    frames = zip(*row.views["source"], strict=True)
    return mean(i / (a + t - i) if a + t else 1.0 for i, a, t in frames)


def _generalised(rows: Sequence[PhraseRecord], protocol: Protocol, view: str) -> dict[str, float]:
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


def _objects(done: Sequence[ExampleRecord], protocol: Protocol) -> ProtocolScores:
    """Each run is evaluated on its own, over all objects of all videos; the mean over runs is what is reported."""
    runs: dict[int, list[dict[str, list[list[float]]]]] = {}
    for example in done:
        for entry in example.objects:
            if entry["protocol"] == protocol.name:
                runs.setdefault(entry["run"], []).append(entry)
    each = tuple(_run(entries) for _, entries in sorted(runs.items()))
    metrics = {metric: mean(run[metric] for run in each) for metric in protocol.metrics} if each else {}
    return ProtocolScores(protocol, metrics, each)


def _run(entries: Sequence[dict[str, list[list[float]]]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, name in (("J", "region"), ("F", "contour")):
        told = [statistics(np.array(series)) for entry in entries for series in entry[name]]
        values[key] = mean(one.mean for one in told)
        values[f"{key}-recall"] = mean(one.recall for one in told)
        values[f"{key}-decay"] = mean(one.decay for one in told)
    return {"J&F": (values["J"] + values["F"]) / 2, **values}
