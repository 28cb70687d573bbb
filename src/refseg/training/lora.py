"""LoRA: a weight stays as it is, and a small product of two matrices that is added to it learns.

W becomes W + alpha / rank * up @ down. The sum takes the weight's place wherever a model reads it, so that layers which
fold weights into each other are served like plain ones; what is adapted is a fused projection as a whole. Checkpoints hold the
sum under the weight's own name.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. Departures: the product is added to the
weight, not to the layer's answer, and dropout hides inputs of a layer for a whole batch at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel
from refseg.training.schema import AdaptersConfig

_ORIGINAL = re.compile(r"\.parametrizations\.(\w+)\.original$")
_PART = re.compile(r"\.parametrizations\.(\w+)\.0\.(up|down)$")


class LowRank(nn.Module):
    """The small change of one weight; zero at first.

    Arguments:
        like: the weight, [O, ...]; all but its first dimension count as inputs.
    """

    def __init__(self, like: Tensor, settings: AdaptersConfig) -> None:
        super().__init__()
        rows, columns = like.flatten(1).shape
        self.scale, self.dropout = settings.alpha / settings.rank, settings.dropout
        self.up = nn.Parameter(like.new_zeros(rows, settings.rank))
        self.down = nn.Parameter(like.new_empty(settings.rank, columns))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as a linear layer's own first values

    def forward(self, weight: Tensor) -> Tensor:
        """The weight and its change.

        Raises:
            InvalidInput: if the model computes this weight's layer without gradient in training.
        """
        if self.training and not torch.is_grad_enabled():
            raise InvalidInput(
                f"adapters.patterns name a weight of shape {list(weight.shape)} whose layer the model computes without "
                "gradient, so that its adapter cannot learn; leave that part out"
            )
        down: Tensor = self.down
        if self.training and self.dropout:
            down = down * functional.dropout(torch.ones_like(down[0]), self.dropout)
        return weight + self.change(down).view_as(weight)

    def change(self, down: Tensor | None = None) -> Tensor:
        """What is added to the weight, [O, inputs]; at full precision, since rounding it would change the sum."""
        with torch.autocast(self.up.device.type, enabled=False):
            return (self.up @ (self.down if down is None else down)) * self.scale


def attach(model: ReferringModel, settings: AdaptersConfig) -> None:
    """Gives the weights that `settings` names an adapter each and freezes everything that is not named.

    Random first values come from torch's global generator.

    Raises:
        InvalidInput: if a pattern finds no weight, or only weights that cannot have an adapter or are never trained.
    """
    found = [
        (owner, module, name) for owner, module, name in _adaptable(model) if _is_named(owner, name, settings)
    ]
    _check_found(model, settings, [f"{owner}.{name}" for owner, _, name in found])
    idle = [f"{owner}.{name}" for owner, module, name in found if not module.training]
    if idle:
        raise InvalidInput(
            f"adapters.patterns name {idle[0]}, which lies in a part that this model never trains; leave that part out"
        )
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and _any(settings.train_too, parameter_name))
    for _, module, name in found:
        weight = getattr(module, name)
        weight.requires_grad_(False)
        parametrize.register_parametrization(module, name, LowRank(weight, settings), unsafe=True)


def base_name(name: str) -> str:
    """The name of a parameter as it was before adapters: both parts of an adapter have that of its weight."""
    return _PART.sub(r".\1", _ORIGINAL.sub(r".\1", name))


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return _PART.search(name) is not None


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """All adapters of a model by the names of their weights."""
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            yield name.replace(".parametrizations.", ".").removesuffix(".0"), module


class Merged:
    """A model with adapters as a checkpoint keeps it: weights under their own names, changes added to them."""

    def __init__(self, model: ReferringModel) -> None:
        self._model, self.config = model, model.config

    def state_dict(self) -> dict[str, Tensor]:
        """As the model's would be without adapters; weights that have one are new tensors."""
        return merge_changes(self._model.state_dict(), dict(adapters(self._model)))

    def extra_state(self) -> dict[str, str]:
        """The model's."""
        return self._model.extra_state()


def as_stored(model: ReferringModel) -> ReferringModel | Merged:
    """What to save of a model: itself, unless it has adapters."""
    return Merged(model) if next(adapters(model), None) else model


@torch.no_grad()
def merge_changes(state: Mapping[str, Tensor], changes: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """The state of a model with adapters under the names of one without, each change added to its weight."""
    plain = {base_name(name): tensor for name, tensor in state.items() if not is_adapter(name)}
    for name, adapter in changes.items():
        plain[name] = plain[name] + adapter.change().view_as(plain[name])
    return plain


def check_learns(fresh: Sequence[str], model: ReferringModel, settings: AdaptersConfig) -> None:
    """Refuses weights that begin fresh and would stay at their random first values.

    Raises:
        InvalidInput: naming the first of them.
    """
    names = dict(model.named_parameters())
    left = [name for name in fresh if name in names and not _any(settings.train_too, name)]
    if settings.patterns and left:
        raise InvalidInput(
            f"{len(left)} weights are not taken from init and would stay frozen at random values, such as {left[0]}; name them in "
            "adapters.train_too"
        )


def _adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Matrices of linear layers, convolutions and attention: the owner's name, the owner, the weight's name in it."""
    for owner, module in model.named_modules():
        is_layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and (is_layer or name.endswith("proj_weight")):
                yield owner, module, name


def _is_named(owner: str, name: str, settings: AdaptersConfig) -> bool:
    return _any(settings.patterns, owner) or _any(settings.patterns, f"{owner}.{name}")


def _check_found(model: nn.Module, settings: AdaptersConfig, found: Sequence[str]) -> None:
    for pattern in settings.patterns:
        if not any(re.search(pattern, name) or re.search(pattern, name.rpartition(".")[0]) for name in found):
            raise InvalidInput(
                f"adapters.patterns: {pattern!r} finds no weight of a linear layer, a convolution or an attention"
            )
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in settings.train_too:
        if not any(re.search(pattern, name) for name in trainable):
            raise InvalidInput(f"adapters.train_too: {pattern!r} finds no weight that this model trains")


def _any(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def counts(model: nn.Module) -> dict[str, Any]:
    """How many adapters a model has, and how many numbers they hold."""
    every = [adapter for _, adapter in adapters(model)]
    return {"adapters": len(every), "numbers": sum(p.numel() for each in every for p in each.parameters())}
