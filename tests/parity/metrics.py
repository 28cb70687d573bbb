"""Cases of the published evaluators; their expected numbers stand in the manifest, their masks are packed bits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.case import Case, NotBuilt
from refseg.data.formats.masks import mask_from_rle
from refseg.errors import UnknownName
from refseg.framing import FrameSpec, place
from refseg.metrics import average_precision, contour, generalised, protocols
from refseg.metrics.scores import Pixels, overlap_scores, threshold_name
from refseg.models import catalog
from refseg.models.referformer.finish import merge_objects
from refseg.structures import Output


def run(case: Case) -> None:
    """Runs a case by what it tells."""
    _runner(case)(case)


def _runner(case: Case) -> Callable[[Case], None]:
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    marks: list[tuple[bool, Callable[[Case], None]]] = [
        ("series" in told, run_series),
        ("task" in told, run_videos),
        (any(name.startswith("soft/") for name in case.arrays), run_merge),
        ("sets" in told and "J_void" in str(wanted), run_frames),
        ("coco_stats_all_12" in wanted, run_candidates),
        ("refer_style" in wanted, run_styles),
        ("coco_style" in wanted, run_exact),
        ("mask_dict" in told, run_expressions),
        ("pred_no_target" in told, run_generalised),
        ("grec" in wanted, run_boxes),
        (any(name.startswith("logits/") for name in case.arrays), run_letterbox),
    ]
    found = [runner for is_meant, runner in marks if is_meant]
    if not found:
        raise NotBuilt(f"the evaluator of metrics/{case.name}")
    return found[0]


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
    boxes = case.tensor("boxes") if "boxes" in case.arrays else [None] * len(masks)
    samples = [
        average_precision.Ranked(*parts)
        for parts in zip(told["image_ids"], case.tensor("scores"), masks, targets, boxes, strict=True)
    ]
    precision = average_precision.average_precision(samples, sizes_from_corners="boxes" in case.arrays)
    close(case, dataclasses.astuple(precision), wanted["coco_stats_all_12"][:6], "average precision")
    check_best(case, average_precision.best_masks(samples), "")
    if "boxes" in case.arrays:
        corners = torch.tensor(told["gt_bbox_xywh"])
        corners[:, 2:] += corners[:, :2]
        best = average_precision.best_boxes(case.tensor("scores"), case.tensor("boxes"), corners)
        check_best(case, best, "bbox ")


def check_best(case: Case, best: average_precision.BestScored, kind: str) -> None:
    wanted = case.manifest["outputs"]
    expected = [wanted[f"{kind}P@{threshold}"] for threshold in average_precision.THRESHOLDS]
    close(case, best.precision, expected, f"{kind}precision")
    close(case, best.overall_iou, wanted[f"{kind}overall_iou"], f"{kind}overall IoU")
    close(case, best.mean_iou, wanted[f"{kind}mean_iou"], f"{kind}mean IoU")


def pixels_of(answers: np.ndarray, targets: np.ndarray) -> list[Pixels]:
    """Counts of pairs of masks [N, H, W], with the boundary F of each."""
    contours = contour.contour_accuracies(answers, targets)
    pairs = zip(answers, targets, contours, strict=True)
    return [Pixels(int((a & t).sum()), int(a.sum()), int(t.sum()), float(f)) for a, t, f in pairs]


def rows_of(case: Case) -> list[Pixels]:
    width = case.manifest["inputs"]["shape"][-1]
    return pixels_of(*(unpacked(case, name, width) for name in ("pred", "gt")))


def check_precision(case: Case, scores: dict[str, float], expected: dict[str, float], what: str) -> None:
    for threshold, value in expected.items():
        close(case, scores[threshold_name(float(threshold))], value, f"{what} precision at {threshold}")


def run_styles(case: Case) -> None:
    """One set of pairs under the conventions of three families."""
    rows, wanted = rows_of(case), case.manifest["outputs"]
    ious = {
        protocol.name: [protocol.iou(row.intersection, row.union) for row in rows]
        for protocol in (protocols.REFER, protocols.VLT, protocols.VLFORMER)
    }
    refer, told = overlap_scores(rows, protocols.REFER), wanted["refer_style"]
    close(case, ious["refer"], told["iou"], "IoU, REFER style")
    close(case, [refer["mIoU"], refer["oIoU"]], [told["mean_iou"], told["overall_iou"]], "REFER style")
    close(case, sum(row.intersection for row in rows), told["cum_I"], "summed intersections")
    close(case, sum(row.union for row in rows), told["cum_U"], "summed unions")
    check_precision(case, refer, told["precision"], "REFER style")
    vlt, told = overlap_scores(rows, protocols.VLT), wanted["vlt_style"]
    close(case, ious["vlt"], told["iou"], "IoU, VLT style")
    close(case, vlt["mIoU"], told["mean_iou"], "mean IoU, VLT style")
    check_precision(case, vlt, told["precision"], "VLT style")
    vlformer, told = overlap_scores(rows, protocols.VLFORMER), wanted["vlformer_style"]
    close(case, ious["vlformer"], told["iou"], "IoU, VLFormer style")
    close(case, [row.contour for row in rows], told["boundary"], "boundary F")
    results = told["results"]
    for ours, theirs in (("mIoU", "iou"), ("F", "f1"), ("overall", "overall")):
        close(case, vlformer[ours], results[theirs], f"{theirs}, VLFormer style")
    shares = {int(name[3:]) / 100: value for name, value in results.items() if name.startswith("Pr@")}
    check_precision(case, vlformer, shares, "VLFormer style")


def run_exact(case: Case) -> None:
    """IoUs that lie on thresholds, phrase by phrase."""
    rows, wanted = rows_of(case), case.manifest["outputs"]
    coco, told = overlap_scores(rows, protocols.REFERFORMER_MASKS), wanted["coco_style"]
    ious = [protocols.REFERFORMER_MASKS.iou(row.intersection, row.union) for row in rows]
    close(case, ious, told["iou_float32_as_float64"], "IoU in float32")
    close(case, coco["oIoU"], told["overall_iou"], "overall IoU, COCO style")
    close(case, coco["mIoU"], told["mean_iou"], "mean IoU, COCO style")
    check_precision(case, coco, told["precision"], "COCO style")
    for number, row in enumerate(rows):
        vlt, told = overlap_scores([row], protocols.VLT), wanted["vlt_style"][number]
        close(case, vlt["mIoU"], told["iou"], f"VLT style, pair {number}")
        check_precision(case, vlt, told["precision"], f"VLT style, pair {number}")
        refer = overlap_scores([row], protocols.REFER)
        check_precision(case, refer, wanted["refer_style_at_or_above"][number], f"REFER style, pair {number}")


def run_generalised(case: Case) -> None:
    told = case.manifest["inputs"]
    decisions = zip(rows_of(case), told["gt_no_target"], told["pred_no_target"], strict=True)
    rows = [generalised.Refusable(row.intersection, row.union, not t, n) for row, t, n in decisions]
    for source, expected in case.manifest["outputs"].items():
        chosen = [row for row, name in zip(rows, told["source"], strict=True) if source in (name, "full")]
        got = generalised_values(generalised.generalised_scores(chosen))
        for name, value in expected.items():
            close(case, got[name], value, f"{name} of {source}")


def generalised_values(scores: generalised.Generalised) -> dict[str, float]:
    """The published names and units: accuracies as shares, all else in percent."""
    n_acc, t_acc = scores.published_accuracies
    shares = {"gIoU": scores.giou, "cIoU": scores.ciou}
    shares |= {name.replace("P@", "Pr@"): value for name, value in scores.precision.items()}
    return {"T_acc": t_acc, "N_acc": n_acc, **{name: 100 * value for name, value in shares.items()}}


def run_boxes(case: Case) -> None:
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    targets: dict[int, list[np.ndarray]] = {image: [] for image in range(told["images"])}
    for annotation in told["annotations"]:
        if annotation["category_id"] != -1:
            x, y, w, h = annotation["bbox"]
            targets[annotation["image_id"]].append(np.array([x, y, x + w, y + h], dtype=np.float32))
    answers = [
        generalised.BoxAnswer(scores, boxes, np.array(targets[image], dtype=np.float32).reshape(-1, 4))
        for image, (scores, boxes) in enumerate(zip(case.arrays["scores"], case.arrays["boxes"], strict=True))
    ]
    got = generalised.box_scores(answers)
    for name, value in (("F1_score", got.f1), ("T_acc", got.t_acc), ("N_acc", got.n_acc)):
        close(case, value, wanted["grec"][name], name)
    for dataset, expected in wanted["rec_precision_at_1_5_10_by_dataset_generalised_iou"].items():
        single = [
            answers[int(image)] for image, name in told["single_target_dataset_of"].items() if name == dataset
        ]
        close(case, sorted(generalised.precision_of_boxes(single)), expected, f"REC on {dataset}")


def run_expressions(case: Case) -> None:
    """MeViS: targets are unions of run-length codes, absent ones null."""
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    accuracies = {}
    for video, entry in told["meta_expressions"]["videos"].items():
        for number, expression in entry["expressions"].items():
            name = f"pred/{video}/{number}"
            codes = [told["mask_dict"][str(annotation)] for annotation in expression["anno_id"]]
            accuracies[f"{video}_{number}"] = (
                contour.clip_accuracy(case.arrays[name] > 0, union_of(codes, case.arrays[name].shape))
                if name in case.arrays
                else contour.ClipAccuracy(0.0, 0.0)
            )
    for name, expected in wanted["per_expression"].items():
        got = accuracies[name]
        close(case, [got.region, got.contour], [expected["J"], expected["F"]], name)
    total = contour.mean_accuracy(list(accuracies.values()))
    expected = [wanted["J"], wanted["F"], wanted["J&F"]]
    close(case, [total.region, total.contour, total.mean], expected, "means over expressions")


def union_of(codes: list[list[Any]], shape: tuple[int, ...]) -> np.ndarray:
    """Masks [T, H, W] of several objects together; a code is null where its object is absent."""
    joint = np.zeros(shape, dtype=bool)
    for series in codes:
        for frame, code in zip(joint, series, strict=True):
            if code is not None:
                np.logical_or(frame, mask_from_rle(code, shape[1:]).numpy(), out=frame)
    return joint


def run_letterbox(case: Case) -> None:
    """VLT from logits to scores, by the family's own way back to the source."""
    told, wanted = case.manifest["inputs"], case.manifest["outputs"]
    try:
        model = catalog.build("vlt", "debug")
    except UnknownName as missing:
        raise NotBuilt("the family VLT") from missing
    model.config = dataclasses.replace(model.config, threshold=told["threshold"])
    spec = FrameSpec("letterbox", told["input_size"])
    rows = []
    for number in range(told["count"]):
        target = case.arrays[f"gt/{number}"]
        logits = case.tensor(f"logits/{number}").float() / 16
        (mask,) = model.finish(Output(logits[None, None, None]), [place(target.shape, spec)])
        rows += pixels_of(mask.numpy(), target[None])
    ious = [protocols.VLT.iou(row.intersection, row.union) for row in rows]
    close(case, ious, wanted["per_sample_iou"], "IoU")
    scores = overlap_scores(rows, protocols.VLT)
    close(case, scores["mIoU"], wanted["mean_iou"], "mean IoU")
    check_precision(case, scores, wanted["precision"], "letterbox")
    answered = np.array([row.answered for row in rows])
    assert np.abs(answered - wanted["per_sample_predicted_pixels"]).max() <= 1, answered
