"""Losses of mask logits and class logits, element by element or per mask; callers weight and average."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

ALPHA = 0.25  # share of the positive side
GAMMA = 2.0  # how much easy elements fade


def focal(logits: Tensor, targets: Tensor, *, alpha: float = ALPHA, gamma: float = GAMMA) -> Tensor:
    """Sigmoid focal loss of every element; `targets` are 0 or 1 in the logits' shape.

    Source: "Focal Loss for Dense Object Detection" (Lin et al., ICCV 2017).
    """
    scores = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = scores + targets - 2 * scores * targets  # 1 - score of the right answer
    return (1 - alpha + (2 * alpha - 1) * targets) * missed.pow(gamma) * entropy


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - dice coefficient [...] of masks [..., cells], counts raised by one.

    Source: "V-Net" (Milletari et al., 3DV 2016), in the form of the DETR family.
    """
    scores = logits.sigmoid()
    common = (scores * targets).sum(-1)
    return 1 - (2 * common + 1) / (scores.sum(-1) + targets.sum(-1) + 1)
