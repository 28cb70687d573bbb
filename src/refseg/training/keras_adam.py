"""Adam as Keras 2.3 over TensorFlow 1 computes it, for a family whose published weights were trained by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class KerasAdam(torch.optim.Optimizer):
    """Adam with `eps` beside the uncorrected second moment, and weight decay as a part of the gradient.

    Published behaviour: step t divides by the corrections of step t + 1, so that the first update is 0.744 of the
    learning rate.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every weight that has a gradient."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        gradient = parameter.grad
        assert gradient is not None
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        (low, high), t = group["betas"], int(state["step"]) + 1
        state["first"].lerp_(gradient, 1 - low)
        state["second"].mul_(high).addcmul_(gradient, gradient, value=1 - high)
        rate = group["lr"] * (1 - high**t) ** 0.5 / (1 - low**t)
        parameter.addcdiv_(state["first"], state["second"].sqrt().add_(group["eps"]), value=-rate)
