"""All candidates of a phrase as plain data, and what COCO's evaluation makes of many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.metrics.average_precision import (
    THRESHOLDS,
    RankedCodes,
    average_precision,
    best_boxes,
    best_of,
)
from refseg.metrics.protocols import Protocol
from refseg.metrics.scores import Pixels, overlap_scores, threshold_name

if TYPE_CHECKING:
    from refseg.models.base import Candidates


def ranked_record(
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


def ranked_scores(records: Sequence[tuple[str, dict[str, Any]]], protocol: Protocol) -> dict[str, float]:
    """The metrics of a ranked protocol over named records: mAP over all candidates, overlap of the best one."""
    scores: dict[str, float] = {}
    if "mAP" in protocol.metrics:
        mean = average_precision([_coded(name, record) for name, record in records])
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


def _coded(name: str, record: dict[str, Any]) -> RankedCodes:
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
