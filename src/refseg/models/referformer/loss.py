"""The loss: every decoder layer's candidates are matched to the phrase's object and learn from it.

Source: section 3.5 of the paper. Published behaviour kept: box terms count frames where the object is absent too; mask
terms are one a clip but are divided by the number of visible frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.losses import boxes, masks, matching
from refseg.models.base import Criterion
from refseg.models.referformer.config import ReferFormerLossConfig
from refseg.models.referformer.mask_head import STRIDE
from refseg.structures import Output, Targets


@dataclass(slots=True)
class _Objects:
    """The targets of P phrases at the network's resolution."""

    masks: Tensor  # [P, T*h*w] float
    boxes: Tensor  # [P, T, 4]
    visible: Tensor  # [P, T] float
    labels: Tensor  # [P]


class ReferFormerCriterion(Criterion):
    """Class, box, overlap and mask terms of the matched candidate, for each decoder layer."""

    config: ReferFormerLossConfig

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Named, weighted terms: those of the last layer plainly, those of layer k with the ending `_k`."""
        weights = {
            "class": self.config.class_weight,
            "box": self.config.box_weight,
            "giou": self.config.giou_weight,
            "mask": self.config.mask_weight,
            "dice": self.config.dice_weight,
        }
        objects = _at_cells(targets)
        count = mean_count(objects.visible.sum())
        terms = self._terms(output, objects, count, "")
        for index, layer in enumerate(output.earlier):
            terms |= self._terms(layer, objects, count, f"_{index}")
        return {name: weights[name.split("_")[0]] * term for name, term in terms.items()}

    def match(self, output: Output, targets: Targets) -> Tensor:
        """The candidate [P] that answers for each phrase's object."""
        return self._match(output, _at_cells(targets))

    @torch.no_grad()
    def _match(self, output: Output, objects: _Objects) -> Tensor:
        logits = output.mask_logits.float().flatten(2)  # [P, Q, T*h*w]
        target_masks = objects.masks[:, None].expand_as(logits)
        told, wanted = output.boxes, objects.boxes[:, None]
        assert told is not None
        settings = self.config
        costs = (
            settings.class_cost * _class_cost(output, objects)
            + settings.box_cost * boxes.l1(told, wanted).mean(-1)
            - settings.giou_cost * boxes.generalised_iou(told, wanted).mean(-1)
            + settings.mask_cost * masks.focal(logits, target_masks).mean(-1)
            + settings.dice_cost * (masks.dice(logits, target_masks) - 1)
        )
        return matching.cheapest(costs)

    def _terms(self, output: Output, objects: _Objects, count: Tensor, ending: str) -> dict[str, Tensor]:
        query = self._match(output, objects)
        rows = torch.arange(len(query), device=query.device)
        assert output.boxes is not None
        logits = output.mask_logits[rows, query].float().flatten(1)  # [P, T*h*w]
        told = output.boxes[rows, query]  # [P, T, 4]
        terms = {
            "class": self._class_term(output, objects, query),
            "box": boxes.l1(told, objects.boxes).sum(),
            "giou": (1 - boxes.generalised_iou(told, objects.boxes)).sum(),
            "mask": masks.focal(logits, objects.masks).mean(-1).sum(),
            "dice": masks.dice(logits, objects.masks).sum(),
        }
        return {name + ending: term / count for name, term in terms.items()}

    def _class_term(self, output: Output, objects: _Objects, query: Tensor) -> Tensor:
        """The matched candidate says its class where the object is visible; all else says nothing."""
        logits = _class_logits(output)  # [P, Q, T, K]
        wanted = torch.zeros_like(logits)
        rows = torch.arange(len(query), device=query.device)
        wanted[rows, query, :, _labels(objects, logits)] = objects.visible
        return masks.focal(logits, wanted, alpha=self.config.focal_alpha).sum()


def _class_cost(output: Output, objects: _Objects) -> Tensor:
    """[P, Q]: the cost of the object's class, averaged over the frames that show it."""
    logits = _class_logits(output)
    rows = torch.arange(len(logits), device=logits.device)
    cost = matching.class_cost(logits[rows, :, :, _labels(objects, logits)])  # [P, Q, T]
    visible = objects.visible[:, None]
    return (cost * visible).sum(-1) / visible.sum(-1).clamp(min=1)


def _class_logits(output: Output) -> Tensor:
    assert output.class_logits is not None
    return output.class_logits.float()


def _labels(objects: _Objects, logits: Tensor) -> Tensor:
    """Class numbers [P]; a model of one class calls every object by it."""
    return torch.zeros_like(objects.labels) if logits.shape[-1] == 1 else objects.labels


def _at_cells(targets: Targets) -> _Objects:
    """Targets with one pixel of each cell's mask: the third of its rows and columns, as published."""
    bottom, right = (-side % STRIDE for side in targets.masks.shape[-2:])
    padded = functional.pad(targets.masks, (0, right, 0, bottom))
    sampled = padded[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return _Objects(sampled.flatten(1).float(), targets.boxes, targets.visible.float(), targets.labels)
