"""The loss: every prediction of the query decoder learns the mask.

Source: section 3.5 of the paper: binary cross-entropy, averaged over all pixels of the batch, summed over predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.layers.precision import at_least_float32
from refseg.models.base import Criterion
from refseg.models.lgformer.config import LGFormerLossConfig
from refseg.structures import Output, Targets


class LGFormerCriterion(Criterion):
    """One term a prediction; all of equal weight."""

    config: LGFormerLossConfig

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """The last prediction's term as `mask`, that of the state before layer k as `mask_k`."""
        masks = targets.masks  # [P, T', H, W]
        count = mean_count(
            output.mask_logits.new_tensor(masks.shape[0] * masks.shape[1], dtype=torch.float32)
        )
        terms = {"mask": self._term(output, masks) / count}
        for number, earlier in enumerate(output.earlier):
            terms[f"mask_{number}"] = self._term(earlier, masks) / count
        return terms

    def _term(self, output: Output, masks: Tensor) -> Tensor:
        """Means over the pixels of a frame, summed over phrases and frames."""
        logits = at_least_float32(output.mask_logits[:, 0])  # [P, T', h, w]
        enlarged = functional.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
        weight = enlarged.new_tensor(self.config.positive_weight)
        entropy = functional.binary_cross_entropy_with_logits(
            enlarged, masks.to(enlarged.dtype), pos_weight=weight, reduction="none"
        )
        return entropy.mean((-2, -1)).sum()
