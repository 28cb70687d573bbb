"""Published names to ours: rules that live beside each model, and the report of what they did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from refseg.errors import CheckpointMismatch


@dataclass(frozen=True)
class Rename:
    """Every name that `pattern` matches as a whole becomes `name` (re.sub templates such as \\1 work)."""

    pattern: str
    name: str


@dataclass(frozen=True)
class Drop:
    """Every name that `pattern` matches as a whole is left out on purpose, for the reason `why`."""

    pattern: str
    why: str


@dataclass(frozen=True)
class Alias:
    """Every name that `pattern` matches is a second name of `canonical`: equal tensors are dropped, others refused."""

    pattern: str
    canonical: str


@dataclass(frozen=True)
class Merge:
    """Several tensors become one: `pattern` finds the first part, `others` (templates) name the rest."""

    pattern: str
    others: tuple[str, ...]
    name: str
    join: Callable[[Sequence[Tensor]], Tensor]


Rule = Rename | Drop | Alias | Merge


@dataclass
class ConversionReport:
    """What a conversion did, name by name."""

    renamed: dict[str, str] = field(default_factory=dict)
    merged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)  # names that no rule matches
    fresh: list[str] = field(default_factory=list)  # our names that the file lacks and that begin anew

    def summary(self) -> str:
        """One line of counts."""
        told = f"{len(self.renamed)} renamed, {len(self.merged)} merged, {len(self.dropped)} dropped on purpose, {len(self.left)} left over"
        return f"{told}, {len(self.fresh)} begun anew" if self.fresh else told


def apply(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], ConversionReport]:
    """`state` under our names, and what was done; the first rule that matches a name decides.

    Raises:
        CheckpointMismatch: if an alias differs from its canonical tensor, a part of a merge is absent, or two names
            become one.
    """
    converted: dict[str, Tensor] = {}
    report = ConversionReport()
    taken = _merge_parts(state, rules)
    for name, tensor in state.items():
        if name in taken:
            continue
        rule, match = _first(rules, name)
        if rule is None or match is None:
            report.left.append(name)
        elif isinstance(rule, Drop):
            report.dropped[name] = rule.why
        elif isinstance(rule, Alias):
            _check_alias(state, name, match.expand(rule.canonical))
            report.dropped[name] = f"second name of {match.expand(rule.canonical)}"
        elif isinstance(rule, Merge):
            parts = (name, *(match.expand(other) for other in rule.others))
            _put(converted, match.expand(rule.name), rule.join([state[part] for part in parts]))
            report.merged[match.expand(rule.name)] = parts
        else:
            _put(converted, match.expand(rule.name), tensor)
            report.renamed[name] = match.expand(rule.name)
    return converted, report


def _first(rules: Sequence[Rule], name: str) -> tuple[Rule | None, re.Match[str] | None]:
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return rule, match
    return None, None


def _merge_parts(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> set[str]:
    taken: set[str] = set()
    for name in state:
        rule, match = _first(rules, name)
        if isinstance(rule, Merge) and match is not None:
            parts = [match.expand(other) for other in rule.others]
            absent = [part for part in parts if part not in state]
            if absent:
                raise CheckpointMismatch(f"{name} stands alone", missing=absent)
            taken.update(parts)
    return taken


def _check_alias(state: Mapping[str, Tensor], name: str, canonical: str) -> None:
    if canonical not in state:
        raise CheckpointMismatch(f"{name} is a second name of {canonical}", missing=[canonical])
    if not torch.equal(state[name], state[canonical]):
        raise CheckpointMismatch(
            f"{name} and {canonical} are two names of one tensor, but their values differ"
        )


def _put(converted: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in converted:
        raise CheckpointMismatch(f"two tensors of the file become {name}")
    converted[name] = tensor
