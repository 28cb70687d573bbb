"""The loss: cross-entropy of object and background on the canvas, the object weighing a little more.

Source: the published training code. The logits are one number a cell here, the difference of the published two; the
cross-entropy of two classes depends on no more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_over_ranks
from refseg.models.base import Criterion
from refseg.models.vpd.config import VPDLossConfig
from refseg.models.vpd.head import resize_maps
from refseg.structures import Output, Targets


class VPDCriterion(Criterion):
    """One term, `mask`."""

    config: VPDLossConfig

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """The mean over all pixels of the batch, weighted by their class.

        Of several processes each divides by the weights of all pixels, where the published program divides by those of its
        own: so the batch, and not how it is dealt out, decides what a pixel counts.
        """
        canvas = (targets.masks.shape[-2], targets.masks.shape[-1])
        logits = resize_maps(output.mask_logits.float().flatten(0, 2)[:, None], canvas)[:, 0]
        masks = targets.masks.flatten(0, 1)
        weights = torch.where(masks, self.config.object_weight, self.config.background_weight)
        terms = functional.binary_cross_entropy_with_logits(logits, masks.float(), weights, reduction="sum")
        return {"mask": terms / mean_over_ranks(weights.sum())}
