"""Scout's loss: masks, boxes and existence, after every decoder layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.models.base import Criterion
from refseg.models.scout.config import ScoutLoss
from refseg.structures import Output, Targets


class ScoutCriterion(Criterion):
    """Means over the phrases of a batch; masks are compared at the network's own resolution.

    Phrases that nothing answers to teach existence and an empty mask; overlap and box speak of visible objects alone.
    """

    config: ScoutLoss

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Named, weighted terms; those of earlier layers carry the layer's number."""
        visible = targets.visible.float()  # [P, T']
        asked, seen = mean_count(torch.stack([torch.ones_like(visible).sum(), visible.sum()]))
        terms = self._terms(output, targets, asked, seen)
        for number, earlier in enumerate(output.earlier):
            weaker = self._terms(earlier, targets, asked, seen)
            terms |= {
                f"{name}_{number}": self.config.earlier_weight * value for name, value in weaker.items()
            }
        return terms

    def _terms(self, output: Output, targets: Targets, asked: Tensor, seen: Tensor) -> dict[str, Tensor]:
        assert output.boxes is not None and output.class_logits is not None
        weights = self.config
        logits = output.mask_logits[:, 0].float()  # [P, T', h, w]
        masks = functional.adaptive_avg_pool2d(targets.masks.float(), (logits.shape[-2], logits.shape[-1]))
        visible = targets.visible.float()
        boxes = output.boxes[:, 0].float()
        existence = functional.binary_cross_entropy_with_logits(
            output.class_logits[:, 0, :, 0].float(), visible, reduction="sum"
        )
        return {
            "mask": weights.mask_weight * _focal(logits, masks, weights.focal_gamma) / asked,
            "dice": weights.dice_weight * (_dice(logits, masks) * visible).sum() / seen,
            "box": weights.box_weight * ((boxes - targets.boxes).abs().mean(-1) * visible).sum() / seen,
            "giou": weights.giou_weight * ((1 - _giou(boxes, targets.boxes)) * visible).sum() / seen,
            "existence": weights.existence_weight * existence / asked,
        }


def _focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Binary cross-entropy weighted by how wrong a pixel is, a mean over the pixels of a frame, summed over frames.

    `masks` may be fractions of a pixel.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    wrong = (logits.sigmoid() - masks).abs()
    return (entropy * wrong**gamma).mean((-2, -1)).sum()


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus the soft dice overlap, [P, T']."""
    scores = logits.sigmoid()
    shared = (scores * masks).sum((-2, -1))
    return 1 - (2 * shared + 1) / (scores.sum((-2, -1)) + masks.sum((-2, -1)) + 1)


def _giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU of cxcywh boxes [..., 4], pairwise by place."""
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    other_low, other_high = others[..., :2] - others[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).prod(-1)
    union = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - shared
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
