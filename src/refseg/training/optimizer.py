"""Which weights learn how fast: a family's parameter rules become groups, a schedule becomes one number a step."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from refseg.errors import InvalidInput, nearest
from refseg.models.base import ParamRule
from refseg.training.adapters import base_name, is_adapter
from refseg.training.depths import layer_scales
from refseg.training.keras_adam import KerasAdam
from refseg.training.sections import OptimizerConfig, ScheduleConfig

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
