"""Cases of the published evaluators; their expected numbers stand in the manifest, their masks are packed bits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.case import Case, NotBuilt
from refseg.metrics import average_precision, contour
from refseg.models.referformer.finish import merge_objects


def run(case: Case) -> None:
    """Runs a case by what it tells."""
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    runner: Callable[[Case], None] | None = None
    if "series" in told:
        runner = run_series
    elif "task" in told:
        runner = run_videos
    elif any(name.startswith("soft/") for name in case.arrays):
        runner = run_merge
    elif "sets" in told and "J_void" in str(wanted):
        runner = run_frames
    elif told.get("style") in ("a2d", "jhmdb"):
        runner = run_candidates
    if runner is None:
        raise NotBuilt(f"the evaluator of metrics/{case.name}")
    runner(case)


def close(case: Case, got: Any, expected: Any, what: str) -> None:
    limits = case.manifest["tolerance"]
    expected = (
        [math.nan if value == "nan" else value for value in expected]
        if isinstance(expected, list)
        else expected
    )
    np.testing.assert_allclose(
        got,
        expected,
        rtol=limits.get("rtol", 0),
        atol=limits.get("atol", 0),
        err_msg=f"{case.id}: {what}",
        equal_nan=True,
    )


def unpacked(case: Case, name: str, width: int) -> np.ndarray:
    return np.unpackbits(case.arrays[name], axis=-1)[..., :width].astype(bool)


def run_series(case: Case) -> None:
    pairs = zip(case.manifest["inputs"]["series"], case.manifest["outputs"]["statistics"], strict=True)
    for number, (series, expected) in enumerate(pairs):
        values = np.array([math.nan if value == "nan" else value for value in series])
        got = dataclasses.asdict(contour.statistics(values))
        for key, value in expected.items():
            close(case, got[key], math.nan if value == "nan" else value, f"{key} of series {number}")


def run_frames(case: Case) -> None:
    for key, told in case.manifest["inputs"]["sets"].items():
        answers, targets, voids = (
            unpacked(case, f"{part}/{key}", told["shape"][-1]) for part in ("pred", "gt", "void")
        )
        frames = list(zip(answers, targets, voids, strict=True))
        wanted = case.manifest["outputs"][key]
        close(case, [contour.region_similarity(a, t) for a, t, _ in frames], wanted["J"], "J")
        close(case, [contour.contour_accuracy(a, t) for a, t, _ in frames], wanted["F"], "F")
        close(case, [contour.region_similarity(*frame) for frame in frames], wanted["J_void"], "J with void")
        close(case, [contour.contour_accuracy(*frame) for frame in frames], wanted["F_void"], "F with void")
        for tolerance, name in ((2, "F_bound_2_pixels"), (0.02, "F_bound_0.02")):
            got = [contour.contour_accuracy(a, t, tolerance=tolerance) for a, t, _ in frames]
            close(case, got, wanted[name], name)
        edges = unpacked(case, f"boundary_of_pred/{key}", told["shape"][-1])
        close(case, np.stack([contour.boundary(mask) for mask in answers[: len(edges)]]), edges, "boundary")


def run_videos(case: Case) -> None:
    wanted = case.manifest["outputs"]
    series: dict[str, dict[str, np.ndarray]] = {"J": {}, "F": {}}
    for video in case.manifest["inputs"]["videos"]:
        answer, target = case.arrays[f"pred/{video}"], case.arrays[f"gt/{video}"]
        void, objects = target == 255, np.where(target == 255, 0, target)
        if case.manifest["inputs"]["task"] == "unsupervised":
            accuracy = contour.unsupervised(answer, objects, void)
        else:
            accuracy = contour.semi_supervised(answer, objects)
        for row, (j, f) in enumerate(zip(accuracy.region, accuracy.contour, strict=True), start=1):
            series["J"][f"{video}_{row}"], series["F"][f"{video}_{row}"] = j, f
    statistics = {
        key: {name: contour.statistics(values) for name, values in rows.items()}
        for key, rows in series.items()
    }
    for key, rows in statistics.items():
        for name, got in rows.items():
            close(case, series[key][name], wanted["per_frame"][key][name], f"{key} of {name}")
            close(case, got.mean, wanted["per_object"][name][f"{key}_mean"], f"mean {key} of {name}")
        for part in ("mean", "recall", "decay"):
            mean = np.mean([getattr(got, part) for got in rows.values()])
            close(case, mean, wanted["global"][f"{key}-{part.title()}"], f"{key} {part}")


def run_merge(case: Case) -> None:
    for name, soft in case.arrays.items():
        if name.startswith("soft/"):
            scores = torch.from_numpy(soft).float() / 20
            close(case, merge_objects(list(scores)), case.arrays[name.replace("soft", "labels")], name)


def run_candidates(case: Case) -> None:
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    width = told["shape"][-1]
    masks, targets = (torch.from_numpy(unpacked(case, name, width)) for name in ("pred", "gt"))
    samples = [
        average_precision.Ranked(*parts)
        for parts in zip(map(str, told["image_ids"]), case.tensor("scores"), masks, targets, strict=True)
    ]
    precision = average_precision.average_precision(samples)
    close(case, dataclasses.astuple(precision), wanted["coco_stats_all_12"][:6], "average precision")
    best = average_precision.best_masks(samples)
    close(
        case,
        best.precision,
        [wanted[f"P@{threshold}"] for threshold in average_precision.THRESHOLDS],
        "precision",
    )
    close(case, best.overall_iou, wanted["overall_iou"], "overall IoU")
    close(case, best.mean_iou, wanted["mean_iou"], "mean IoU")
