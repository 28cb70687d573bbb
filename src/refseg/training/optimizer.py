"""The optimizer: parameter groups, layer-wise learning rates, schedules, and Adam as Keras computes it.

Layer-wise rates: the last layer of an encoder learns at `decay` of the rate, the one before it at its square, and so on to
the input; what stands behind the encoders learns at the full rate.

Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", section 3.2 (discriminative
fine-tuning); Clark et al., "ELECTRA", appendix A, with the factor between neighbouring layers.

Which weights learn how fast: a family's parameter rules become groups, a schedule becomes one number a step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refseg.errors import InvalidInput, nearest
from refseg.models.base import ReferringModel, Tower
from refseg.models.family import ParamRule
from refseg.training.lora import base_name, is_adapter
from refseg.training.schema import OptimizerConfig, ScheduleConfig


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


_Place = tuple[float, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of an encoder: parameters that learn alike."""

    tower: str
    scale: float  # of the learning rate
    names: tuple[str, ...]  # of its parameters, as before adapters
    is_trained: bool  # whether some of them learn


def layers(model: nn.Module, decay: float) -> list[Layer]:
    """The layers of every encoder of a model from input to output, with the factors of their rates; none at a decay of 1.

    Raises:
        InvalidInput: if the model names no encoder.
    """
    if decay == 1.0:
        return []
    towers = model.towers() if isinstance(model, ReferringModel) else ()
    if not towers:
        raise InvalidInput(
            f"optimizer.layer_decay slows the layers of encoders, and {type(model).__name__} names none; leave it out"
        )
    return [layer for tower in towers for layer in _layers_of(tower, model, decay)]


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """The factor of the rate for the parameters of encoders, by name as before adapters; others have none."""
    return {name: layer.scale for layer in layers(model, decay) for name in layer.names}


def describe_layers(model: nn.Module, decay: float) -> list[str]:
    """A line for every encoder that learns: how many layers, and at which shares of their rates.

    Raises:
        InvalidInput: if no encoder learns, so that the decay would change nothing.
    """
    learning = [layer for layer in layers(model, decay) if layer.is_trained]
    if decay != 1.0 and not learning:
        raise InvalidInput(
            "optimizer.layer_decay slows the layers of encoders, and all of them are frozen; leave it out"
        )
    lines = []
    for tower in dict.fromkeys(layer.tower for layer in learning):
        scales = [layer.scale for layer in learning if layer.tower == tower]
        lines.append(
            f"{tower}: {len(scales)} layers learn at x{scales[0]:.3g} to x{scales[-1]:.3g} of their rates, input to output"
        )
    return lines


def _layers_of(tower: Tower, model: nn.Module, decay: float) -> list[Layer]:
    found: dict[str, _Place | None] = {}
    trained = set()
    for given_name, parameter in model.named_parameters():
        name = base_name(given_name)
        match = re.match(tower.prefix, name)
        if match:
            found[name] = _place(name[match.end() :], tower)
            trained |= {name} if parameter.requires_grad else set()
    places = sorted({place for place in found.values() if place is not None})
    assert places, f"no parameter lies in a layer of {tower.name}"
    members: dict[_Place, list[str]] = {place: [] for place in places}
    for name, place in found.items():
        members[places[-1] if place is None else place].append(name)
    return [
        Layer(tower.name, decay ** (len(places) - number), tuple(names), bool(trained & set(names)))
        for number, names in enumerate(members.values())
    ]


def _place(rest: str, tower: Tower) -> _Place | None:
    """Where a parameter stands between input and output, for comparison; None for what no layer claims."""
    for number, pattern in enumerate(tower.layers):
        match = re.match(pattern, rest)
        if match:
            return (number, *(math.inf if group is None else int(group) for group in match.groups()))
    return None


_PLAIN = ParamRule("")


def parameter_groups(
    model: nn.Module, rules: Sequence[ParamRule], settings: OptimizerConfig
) -> list[dict[str, Any]]:
    """Parameter groups of equal learning rate and weight decay; parameters that a rule freezes lose their gradient.

    What a configuration froze when the model was built (a text tower) stays frozen. The first rule whose pattern is
    found in a parameter's name decides: `freeze`, then the recipe's, then the family's. Names are those without adapters; an
    adapter obeys the recipe's rules for its weight, not the family's. A group carries `lr_scale`, by which the schedule's rate
    is multiplied: the rule's scale times that of the parameter's layer.

    Raises:
        InvalidInput: if a rule matches no parameter, or nothing is left to train.
    """
    _every_rule_matches(model, rules)
    own, depths = _own_rules(model, settings), layer_scales(model, settings.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for given_name, parameter in model.named_parameters():
        name = base_name(given_name)
        rule = _rule_of(name, own if is_adapter(given_name) else (*own, *rules))
        parameter.requires_grad_(rule.trained and parameter.requires_grad)
        if parameter.requires_grad:
            key = (rule.lr_scale * depths.get(name, 1.0), _decay(parameter, rule, settings))
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InvalidInput("no parameter is left to train: the rules freeze all of them")
    return [
        {"params": parameters, "lr": settings.lr * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def build_optimizer(
    model: nn.Module, rules: Sequence[ParamRule], settings: OptimizerConfig
) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameter groups of the model; torch's own in one fused kernel per step."""
    groups = parameter_groups(model, rules, settings)
    if settings.kind == "keras_adam":
        return KerasAdam(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def train_mode(model: nn.Module) -> None:
    """Puts a model into training mode, but for batch norms that do not learn: those normalise by their stored statistics.

    Batches would otherwise move the statistics under weights that were fitted to them. A family's own kind of norm obeys the
    family's rule.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _is_frozen(module):
            module.eval()


def _is_frozen(norm: nn.Module) -> bool:
    weights = list(norm.parameters(recurse=False))
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def schedule_ratio(step: int, total: int, settings: ScheduleConfig) -> float:
    """The learning rate of step `step` (from 0) of `total`, as a share of the recipe's rate; lengths are in steps."""
    warm = settings.warmup_steps
    assert isinstance(warm, int), "lengths in epochs are resolved before a run begins"
    if step < warm:
        start = settings.warmup_factor
        return (step + 1) / warm if start is None else start + (1 - start) * step / warm
    passed = (step - warm) / max(1, total - warm)
    rest = 1 - settings.final_ratio
    if settings.kind == "cosine":
        return settings.final_ratio + rest * (1 + math.cos(math.pi * passed)) / 2
    if settings.kind == "poly":
        return float(settings.final_ratio + rest * (1 - passed) ** settings.power)
    if settings.kind == "step":
        return float(settings.drop_ratio ** sum(step >= _at(drop, total) for drop in settings.drops))
    return 1.0


def _at(drop: int | float | str, total: int) -> float:
    """The step of a drop that is given as a step (int) or as a part of the run (float)."""
    assert not isinstance(drop, str), "lengths in epochs are resolved before a run begins"
    return drop * total if isinstance(drop, float) else drop


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def _rule_of(name: str, rules: Sequence[ParamRule]) -> ParamRule:
    return next((rule for rule in rules if re.search(rule.pattern, name)), _PLAIN)


def _own_rules(model: nn.Module, settings: OptimizerConfig) -> list[ParamRule]:
    names = [base_name(name) for name, _ in model.named_parameters()]
    for pattern in settings.freeze:
        if not any(re.search(pattern, name) for name in names):
            near = nearest(pattern.lstrip("^"), dict.fromkeys(name.partition(".")[0] for name in names))
            hint = (
                f"did you mean {' or '.join(f'^{part}' for part in near)}?"
                if near
                else f"the first is {names[0]}"
            )
            raise InvalidInput(f"optimizer.freeze: {pattern!r} finds no parameter of the model; {hint}")
    own = [ParamRule(rule.pattern, rule.lr_scale, rule.weight_decay, rule.trained) for rule in settings.rules]
    _every_rule_matches(model, own)
    return [*(ParamRule(pattern, trained=False) for pattern in settings.freeze), *own]


def _decay(parameter: nn.Parameter, rule: ParamRule, settings: OptimizerConfig) -> float:
    if rule.weight_decay is not None:
        return rule.weight_decay
    return settings.weight_decay if settings.decay_vectors or parameter.ndim > 1 else 0.0


def _every_rule_matches(model: nn.Module, rules: Sequence[ParamRule]) -> None:
    names = [base_name(name) for name, _ in model.named_parameters()]
    for rule in rules:
        if not any(re.search(rule.pattern, name) for name in names):
            raise InvalidInput(f"the parameter rule {rule.pattern!r} matches no parameter of the model")
