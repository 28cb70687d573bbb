"""A running average of the weights, which is what gets evaluated and saved when a recipe asks for it."""

from __future__ import annotations

from copy import deepcopy

import torch

from refseg.models.base import ReferringModel
from refseg.training.shards import local


class AveragedModel:
    """A copy of a model whose floating weights and statistics follow it slowly; whole numbers are copied.

    The decay grows with the steps, (1 + step) / (10 + step), up to the recipe's: the random first weights would
    otherwise be remembered for thousands of steps.
    """

    def __init__(self, model: ReferringModel, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: ReferringModel, step: int) -> None:
        """Moves the average towards the weights of `model` after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        followed = {name: local(value) for name, value in model.state_dict().items()}
        averages, values = [], []
        for name, held in self.model.state_dict().items():
            average = local(held)  # a model and its copy are dealt out alike
            if average.is_floating_point():
                averages.append(average)
                values.append(followed[name])
            else:
                average.copy_(followed[name])
        torch._foreach_lerp_(averages, values, 1 - decay)
