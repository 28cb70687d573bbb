"""The loss: cross-entropy of every pixel, and a penalty on the kernels of all convolutions.

Source: the published program. The penalty counts frozen kernels too; it moves those that learn as decay inside Adam.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.models.base import Criterion
from refseg.models.vlt.config import VltLossConfig
from refseg.models.vlt.model import VltOutput
from refseg.structures import Output, Targets


class VltCriterion(Criterion):
    """The mask term and the penalty."""

    config: VltLossConfig

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """`mask`: summed over pixels, a mean over phrases and frames; `penalty`, where the model trains."""
        logits = output.mask_logits[:, 0]  # [P, T', h, w]
        terms = {"mask": mask_term(logits, masks_at_cells(targets.masks, logits.shape[-1]))}
        if isinstance(output, VltOutput) and output.squared_kernels is not None:
            terms["penalty"] = self.config.kernel_penalty * output.squared_kernels
        return terms


def masks_at_cells(masks: Tensor, cells: int) -> Tensor:
    """Target masks [..., S, S] on the canvas, one pixel of each cell: the first row and column of it, as published."""
    stride = masks.shape[-1] // cells
    return masks[..., ::stride, ::stride]


def mask_term(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of logits [P, T', h, w] with soft masks, summed over pixels, a mean over phrases and frames."""
    summed = functional.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="sum")
    return summed / mean_count(summed.new_tensor(logits.shape[0] * logits.shape[1]))
