"""The loss: one candidate of each prediction is matched to the phrase's object; masks are compared at sampled points.

Source: the loss of Mask2Former with one class. Published behaviour kept: the prediction before the last one is not
supervised, and mask terms are summed over the frames of a clip but divided by the number of objects alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count, mean_over_ranks
from refseg.losses import masks, matching, points
from refseg.models.base import Criterion, LossConfig
from refseg.models.vlformer.config import VLFormerLossConfig
from refseg.structures import Output, Targets

REFERRED, NO_OBJECT = 0, 1


class VLFormerCriterion(Criterion):
    """Class, mask and dice terms of the last prediction, and of the earlier ones but the one before it."""

    config: VLFormerLossConfig

    def __init__(self, config: LossConfig) -> None:
        super().__init__(config)
        self.draw: points.Draw = points.uniform

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Named, weighted terms: those of the last prediction plainly, those of prediction k with the ending `_k`.

        A phrase whose object is in no frame has no object: all candidates should say so, and it has no mask terms.
        """
        present = targets.visible.any(-1)  # [P]
        count = mean_count(present.sum())
        wanted = _wanted(targets)
        terms = self._terms(output, wanted, present, count, "")
        # Published behaviour: the table of weights is one entry short, so the prediction before the last is left out.
        for index, layer in enumerate(output.earlier[:-1]):
            terms |= self._terms(layer, wanted, present, count, f"_{index}")
        return terms

    @torch.no_grad()
    def match(self, output: Output, targets: Targets) -> Tensor:
        """The candidate [P] that answers for each phrase's object; meaningless where there is none."""
        return self._match(output, _wanted(targets))

    @torch.no_grad()
    def _match(self, output: Output, wanted: Tensor) -> Tensor:
        """One set of points a phrase, shared by candidates, target and frames; `wanted` [P, T, H, W] float."""
        queries = output.mask_logits.shape[1]
        logits, targets = [], []
        for told, target in zip(output.mask_logits.float(), wanted, strict=True):
            places = self.draw(1, self.config.num_points, told.device)
            spread = places.expand(told.shape[0] * told.shape[1], -1, -1)
            logits.append(points.at_points(told.flatten(0, 1), spread).unflatten(0, (queries, -1)).flatten(1))
            targets.append(points.at_points(target, places.expand(len(target), -1, -1)).flatten())
        sampled, answers = torch.stack(logits), torch.stack(targets)[:, None]  # [P, Q, T*K], [P, 1, T*K]
        answers = answers.expand_as(sampled)
        entropy = functional.binary_cross_entropy_with_logits(sampled, answers, reduction="none").mean(-1)
        costs = (
            self.config.mask_weight * entropy
            - self.config.class_weight * _class_logits(output).softmax(-1)[..., REFERRED]
            + self.config.dice_weight * masks.dice(sampled, answers)
        )
        return matching.cheapest(costs)

    def _terms(
        self, output: Output, wanted: Tensor, present: Tensor, count: Tensor, ending: str
    ) -> dict[str, Tensor]:
        query = self._match(output, wanted)
        rows = torch.arange(len(query), device=query.device)
        logits = output.mask_logits[rows, query][present].float().flatten(0, 1)  # [K*T, h, w]
        entropy, dice = self._mask_terms(logits, wanted[present].flatten(0, 1))
        return {
            f"class{ending}": self.config.class_weight * self._class_term(output, query, present),
            f"mask{ending}": self.config.mask_weight * entropy / count,
            f"dice{ending}": self.config.dice_weight * dice / count,
        }

    def _class_term(self, output: Output, query: Tensor, present: Tensor) -> Tensor:
        """Cross-entropy of all candidates; the matched one is referred, the others are no object and count little."""
        logits = _class_logits(output)  # [P, Q, 2]
        labels = torch.full(logits.shape[:2], NO_OBJECT, device=logits.device)
        labels[present, query[present]] = REFERRED
        weight = logits.new_tensor([1.0, self.config.absent_weight])
        entropy = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight, reduction="sum")
        return entropy / mean_over_ranks(weight[labels].sum())

    def _mask_terms(self, logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy and dice loss of mask logits [N, h, w] against masks [N, H, W], at sampled points."""
        if len(logits) == 0:
            nothing = logits.sum()  # zero, and known to the graph
            return nothing, nothing
        places = points.uncertain_places(
            logits,
            self.config.num_points,
            oversampling=self.config.oversampling,
            uncertain_share=self.config.uncertain_share,
            draw=self.draw,
        )
        told = points.at_points(logits, places)
        with torch.no_grad():
            answers = points.at_points(wanted, places)
        entropy = functional.binary_cross_entropy_with_logits(told, answers, reduction="none").mean(-1)
        return entropy.sum(), masks.dice(told, answers).sum()


def _wanted(targets: Targets) -> Tensor:
    """Target masks [P, T, H, W] as numbers; zero in frames without the object."""
    return (targets.masks & targets.visible[..., None, None]).float()


def _class_logits(output: Output) -> Tensor:
    assert output.class_logits is not None
    return output.class_logits[:, :, 0].float()  # [P, Q, 2]
