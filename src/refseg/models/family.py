"""What the rest of the toolkit knows of a family: its model, criterion, variants, conversion and parameter rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from refseg.metrics.protocols import Protocol
from refseg.models.base import Criterion, LossConfig, ModelConfig, Objective, ReferringModel, StateDict
from refseg.models.renaming import ConversionReport


@dataclass(frozen=True)
class ParamRule:
    """How the parameters whose name `pattern` finds (re.search) are trained; the first rule that matches decides."""

    pattern: str
    lr_scale: float = 1.0  # times the recipe's learning rate
    weight_decay: float | None = None  # None = the recipe's
    trained: bool = True


Converter = Callable[[StateDict, ModelConfig], tuple[StateDict, ConversionReport]]
"""Published names to ours for one configuration, and what was done; `report.left` are names that no rule knows."""


@dataclass(frozen=True)
class CompanionWeights:
    """Weights that a published file leaves out because another one on the Hugging Face hub has them."""

    title: str  # what they are, for messages
    pattern: str  # our names of them (re.search)
    hub: str
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")  # the first that is there


@dataclass(frozen=True)
class Family:
    """A published system: all that the rest of the toolkit knows of it."""

    name: str
    title: str  # one line for lists
    model: type[ReferringModel]
    criterion: type[Criterion]
    variants: Mapping[str, ModelConfig]  # includes "debug": toy widths, CPU, seconds
    loss: LossConfig  # the published weights of the loss terms
    convert: Converter
    cards: Path  # checkpoints.toml
    param_rules: tuple[ParamRule, ...] = ()
    companions: tuple[CompanionWeights, ...] = ()
    first_values: Callable[[ModelConfig], StateDict] | None = (
        None  # of what a file of `starts` leaves, where the model is too large to be built whole for it
    )
    objectives: Mapping[str, Objective] = field(
        default_factory=dict
    )  # named pre-training objectives, beside "phrases"
    starts: Mapping[str, Converter] = field(
        default_factory=dict
    )  # files of a part alone (a backbone that training begins with), by the part's name
    protocols: Mapping[str, Protocol] = field(
        default_factory=dict
    )  # data set -> how the published numbers on it were taken; "refcocog" also speaks for "refcocog-umd"
