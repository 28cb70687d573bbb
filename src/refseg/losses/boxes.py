"""Box formats and losses; boxes of the network are cxcywh in [0, 1], corners are xyxy in the same unit."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6  # as published with the systems that use these losses; keeps boxes without area finite


def corners(boxes: Tensor) -> Tensor:
    """cxcywh [..., 4] to xyxy [..., 4]."""
    centre, extent = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)


def l1(boxes: Tensor, targets: Tensor) -> Tensor:
    """Summed absolute differences [...] of the four numbers of boxes [..., 4]."""
    return (boxes - targets).abs().sum(-1)


def generalised_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Generalised intersection over union [...] of cxcywh boxes [..., 4], row by row; in [-1, 1].

    Source: "Generalized Intersection over Union" (Rezatofighi et al., CVPR 2019).
    """
    ours, theirs = corners(boxes), corners(targets)
    intersection = _area(
        torch.maximum(ours[..., :2], theirs[..., :2]), torch.minimum(ours[..., 2:], theirs[..., 2:])
    )
    union = _area(ours[..., :2], ours[..., 2:]) + _area(theirs[..., :2], theirs[..., 2:]) - intersection
    hull = _area(torch.minimum(ours[..., :2], theirs[..., :2]), torch.maximum(ours[..., 2:], theirs[..., 2:]))
    iou = (intersection + EPS) / (union + EPS)
    return iou - (hull - union + EPS) / (hull + EPS)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Area [...] between corners [..., 2]; zero where they have crossed."""
    return (high - low).clamp(min=0).prod(-1)
