"""Layer-wise learning rates: the layers of an encoder learn the slower, the farther they are from the output.

The last layer of an encoder learns at `decay` of the rate, the one before it at its square, and so on to the input; what stands
behind the encoders learns at the full rate.

Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", section 3.2 (discriminative
fine-tuning); Clark et al., "ELECTRA", appendix A, with the factor between neighbouring layers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import nn

from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel, Tower
from refseg.training.adapters import base_name

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


def told(model: nn.Module, decay: float) -> list[str]:
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
