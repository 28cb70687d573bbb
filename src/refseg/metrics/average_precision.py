"""Scores of ranked candidates, as A2D-Sentences, JHMDB-Sentences and ReferFormer's RefCOCO results are computed.

Source: COCO's evaluation (average precision with categories ignored) and the published code of MTTR for the best-scored
candidate: IoU in float32 with 1e-6 added above and below, so that two empty masks agree; precision counts IoU *above*
a threshold; of candidates with equal scores the last one is the best.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput

EPS = 1e-6
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidates of one phrase in one frame, and what it asked for."""

    name: str | int  # samples are ordered by it, which settles equal scores of different samples
    scores: Tensor  # [Q]
    masks: Tensor  # [Q, H, W] bool
    target: Tensor  # [H, W] bool
    boxes: Tensor | None = None  # [Q, 4] xyxy in source pixels

    def coded(self) -> RankedCodes:
        """The same with masks as run-length codes."""
        boxes = None if self.boxes is None else self.boxes.tolist()
        codes = [_runs(mask) for mask in self.masks]
        return RankedCodes(self.name, self.scores.tolist(), codes, _runs(self.target), boxes)


@dataclass(frozen=True, slots=True)
class RankedCodes:
    """The same as `Ranked`, with masks as COCO's compressed run-length codes: thousands of samples fit in memory."""

    name: str | int
    scores: Sequence[float]
    codes: Sequence[dict[str, Any]]
    target: dict[str, Any]
    boxes: Sequence[Sequence[float]] | None = None  # xyxy in source pixels


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's summary, as shares; -1 where no target is of that size."""

    mean: float  # over IoU 0.50:0.05:0.95
    at_50: float
    at_75: float
    small: float  # targets of less than 32^2 pixels
    medium: float  # of less than 96^2
    large: float


@dataclass(frozen=True, slots=True)
class BestScored:
    """How well the best-scored candidates fit."""

    precision: tuple[float, ...]  # share of samples with IoU above each of THRESHOLDS
    overall_iou: float  # summed intersections over summed unions
    mean_iou: float


def average_precision(
    samples: Sequence[Ranked | RankedCodes], *, sizes_from_corners: bool = False
) -> AveragePrecision:
    """COCO's average precision of masks, categories ignored.

    Args:
        sizes_from_corners: the published fault of ReferFormer on RefCOCO/+/g, for comparison with its numbers alone: a
            candidate's size is read off its box as if the corner (x2, y2) were width and height, so that those of
            small, medium and large objects are wrong. Needs boxes.

    Raises:
        InvalidInput: if there are no samples, or two have one name.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not samples:
        raise InvalidInput("average precision needs at least one sample")
    if len({sample.name for sample in samples}) < len(samples):
        raise InvalidInput("two samples have one name; give every phrase of every frame its own")
    coded = [sample.coded() if isinstance(sample, Ranked) else sample for sample in samples]
    with contextlib.redirect_stdout(io.StringIO()):  # the library tells its progress in print
        truth = COCO()
        truth.dataset = _targets(coded)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(_candidates(coded, sizes_from_corners)), iouType="segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return AveragePrecision(*(float(value) for value in evaluation.stats[:6]))


def best_masks(samples: Sequence[Ranked]) -> BestScored:
    """Precision and IoU of the best-scored mask of each sample."""
    chosen = [(sample.masks[best_of(sample.scores)], sample.target) for sample in samples]
    intersections = torch.stack([(mask & target).sum() for mask, target in chosen])
    unions = torch.stack([(mask | target).sum() for mask, target in chosen])
    return _summary(intersections.float(), unions.float())


def best_boxes(scores: Sequence[Tensor], boxes: Sequence[Tensor], targets: Sequence[Tensor]) -> BestScored:
    """Precision and IoU of the best-scored box of each sample; boxes [Q, 4] and targets [4] are xyxy."""
    chosen = torch.stack([row[best_of(score)] for score, row in zip(scores, boxes, strict=True)]).float()
    wanted = torch.stack(list(targets)).float()
    low = torch.maximum(chosen[:, :2], wanted[:, :2])
    high = torch.minimum(chosen[:, 2:], wanted[:, 2:])
    intersections = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).prod(-1) for box in (chosen, wanted)]
    return _summary(intersections, areas[0] + areas[1] - intersections)


def best_of(scores: Tensor) -> int:
    """The best-scored candidate [Q]; the last of several equal ones."""
    return len(scores) - 1 - int(scores.flip(0).argmax())


def _summary(intersections: Tensor, unions: Tensor) -> BestScored:
    ious = (intersections + EPS) / (unions + EPS)
    above = tuple(float((ious.double() > threshold).double().mean()) for threshold in THRESHOLDS)
    overall = intersections.double().sum() / unions.double().sum()
    return BestScored(above, float(overall), float(ious.double().mean()))


def _targets(samples: Sequence[RankedCodes]) -> dict[str, Any]:
    """The data set that COCO's code reads; every target counts, an empty one too."""
    from pycocotools import mask as coding

    areas = coding.area([sample.target for sample in samples]).tolist()
    annotations = [
        {
            "id": number,
            "image_id": sample.name,
            "category_id": 1,
            "segmentation": sample.target,
            "area": area,
            "iscrowd": 0,
        }
        for number, (sample, area) in enumerate(zip(samples, areas, strict=True), start=1)
    ]
    sizes = [(sample.name, *sample.target["size"]) for sample in samples]
    return {
        "info": {},
        "images": [{"id": name, "height": height, "width": width} for name, height, width in sizes],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }


def _candidates(samples: Sequence[RankedCodes], sizes_from_corners: bool) -> list[dict[str, Any]]:
    rows = []
    for sample in samples:
        boxes: list[dict[str, Any]] = [{}] * len(sample.scores)
        if sizes_from_corners:
            if sample.boxes is None:
                raise InvalidInput(f"sample {sample.name} has no boxes to read sizes off")
            boxes = [{"bbox": list(box)} for box in sample.boxes]
        rows += [
            {"image_id": sample.name, "category_id": 1, "segmentation": code, "score": score, **box}
            for code, score, box in zip(sample.codes, sample.scores, boxes, strict=True)
        ]
    return rows


def _runs(mask: Tensor) -> dict[str, Any]:
    from pycocotools import mask as coding

    runs: dict[str, Any] = coding.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return runs
