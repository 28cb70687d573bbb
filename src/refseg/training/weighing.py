"""What a run holds from its first step to its last, in bytes: weights, gradients, the optimizer's state, averaged weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_PROBE = 8  # numbers of the parameter that an optimizer is tried on


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on one process."""

    weights: int  # with statistics of norms and other buffers
    gradients: int
    optimizer: int
    average: int  # 0 without run.ema

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average

    def on_each(self, count: int) -> Held:
        """A part of all, where `count` processes share it out."""
        return Held(
            *(value // count for value in (self.weights, self.gradients, self.optimizer, self.average))
        )


def held_by(model: nn.Module, optimizer: torch.optim.Optimizer, *, is_averaged: bool) -> Held:
    """What a training holds once it has made a step; activations, which depend on the batch, are not among it."""
    weights = _bytes_of([*model.parameters(), *model.buffers()])
    return Held(
        weights=weights,
        gradients=_bytes_of(p for p in model.parameters() if p.requires_grad),
        optimizer=optimizer_bytes(optimizer),
        average=weights if is_averaged else 0,
    )


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state of an optimizer whose rule moves every number by itself (Adam, SGD), told before its first step.

    Arguments:
        optimizer: what it keeps beside a parameter is found by a step of another one of its class on a small parameter.
    """
    total = 0
    for group in optimizer.param_groups:
        probe = nn.Parameter(torch.zeros(_PROBE))
        probe.grad = torch.zeros(_PROBE)
        settings = {key: value for key, value in group.items() if key in optimizer.defaults}
        tried = type(optimizer)([probe], **{key: settings[key] for key in _accepted(optimizer, settings)})
        tried.step()
        kept = [value for value in tried.state[probe].values() if isinstance(value, Tensor)]
        along = [value for value in kept if value.numel() == _PROBE]
        fixed = _bytes_of(value for value in kept if value.numel() != _PROBE)
        for parameter in group["params"]:
            total += len(along) * parameter.numel() * parameter.element_size() + fixed
    return total


def _accepted(optimizer: torch.optim.Optimizer, settings: dict[str, object]) -> list[str]:
    """The settings that the optimizer's class takes; some of torch's add defaults that it does not."""
    names = type(optimizer).__init__.__code__.co_varnames
    return [key for key in settings if key in names]


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
