"""Published names to ours: by name, or by the order of the file where its names are those of some training run.

A file of Keras weights holds layer groups; a name here is the path in the file, with dots and without `:0`. The order of
the dict is the order of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from refseg.errors import CheckpointMismatch
from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import ConversionReport
from refseg.models.vlt.config import VltConfig
from refseg.models.vlt.keras_layout import Part, backbone_parts, parts
from refseg.models.vlt.model import Vlt

_TO_OURS = {"kernel": (3, 2, 0, 1), "matrix": (1, 0)}
_OF_DETECTORS = ("conv2d_", "batch_normalization_")  # the only layers with weights in a YOLOv3 file
_SHOWN = 4


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The tensors of a published file under our names, and what was done.

    Where every name of the layout is there with its shape, tensors are taken by name, and any others are left over. Else
    layers are taken in the order of the file, and tensors in the order of their layer, each shape checked. Else a
    detector's file gives its backbone by name, and all else in it is dropped.

    Published behaviour is not kept in the last case: the published program takes every tensor whose name and shape agree,
    so that two convolutions and two norms after the backbone begin with weights of unrelated layers of the detector.

    Raises:
        CheckpointMismatch: if no way fits; the message tells what differs by name and by order.
    """
    assert isinstance(config, VltConfig)
    layers, shapes = parts(config), published_shapes(config)
    by_name = {part.published: part for layer in layers.values() for part in layer}
    if all(_fits(state, part, shapes) for part in by_name.values()):
        return _take(by_name, state)
    differing = _differences(state, layers, shapes)
    if not differing:
        return _take(_by_order(state, layers), state)
    backbone = {part.published: part for part in backbone_parts()}
    is_detector = all(name.startswith(_OF_DETECTORS) for name in state)
    if not is_detector or not all(_fits(state, part, shapes) for part in backbone.values()):
        raise _mismatch(state, by_name, differing)
    taken, report = _take(backbone, state)
    report.dropped = dict.fromkeys(report.left, "not a part of the backbone, which is all the file gives")
    report.left = []
    return taken, report


def first_values(config: ModelConfig) -> StateDict:
    """What training begins anew where a detector gave the backbone."""
    assert isinstance(config, VltConfig)
    return {
        name: value for name, value in Vlt(config).state_dict().items() if not name.startswith("backbone.")
    }


def published_shapes(config: VltConfig) -> dict[str, tuple[int, ...]]:
    """The shape in the published file of each of our tensors, by our name."""
    with torch.device("meta"):
        own = Vlt(config).state_dict()
    layouts = {part.ours: part.layout for layer in parts(config).values() for part in layer}
    return {name: _shape_there(tuple(tensor.shape), layouts[name]) for name, tensor in own.items()}


def _shape_there(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout == "kernel":
        return (*shape[2:], shape[1], shape[0])
    return shape[::-1] if layout == "matrix" else shape


def _fits(state: StateDict, part: Part, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return part.published in state and tuple(state[part.published].shape) == shapes[part.ours]


def _take(names: Mapping[str, Part], state: StateDict) -> tuple[StateDict, ConversionReport]:
    report = ConversionReport(left=[name for name in state if name not in names])
    report.renamed = {name: part.ours for name, part in names.items()}
    return {part.ours: _ours(state[name], part) for name, part in names.items()}, report


def _ours(tensor: Tensor, part: Part) -> Tensor:
    order = _TO_OURS.get(part.layout)
    return tensor if order is None else tensor.permute(order).contiguous()


def _by_order(state: StateDict, layers: Mapping[str, list[Part]]) -> dict[str, Part]:
    """The k-th layer of the file is the k-th layer of the model, as the published program loads it."""
    wanted = itertools.chain.from_iterable(layers.values())
    return dict(zip(state, wanted, strict=True))


def _differences(
    state: StateDict, layers: Mapping[str, list[Part]], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Where the layers of the file, in order, are not those of the model."""
    there = [list(names) for _, names in itertools.groupby(state, key=lambda name: name.split(".")[0])]
    if len(there) != len(layers):
        return [f"{len(there)} layers with weights, and {len(layers)} were expected"]
    told = []
    for names, (layer, wanted) in zip(there, layers.items(), strict=True):
        found = [tuple(state[name].shape) for name in names]
        needed = [shapes[part.ours] for part in wanted]
        if found != needed:
            told.append(f"{names[0].split('.')[0]} holds {found} where {layer} holds {needed}")
    return told


def _mismatch(state: StateDict, names: Iterable[str], differing: list[str]) -> CheckpointMismatch:
    absent = [name for name in names if name not in state]
    return CheckpointMismatch(
        f"the file fits neither by name ({len(absent)} names absent: {_listed(absent)}) nor by the order of its layers "
        f"({_listed(differing)})"
    )


def _listed(items: list[str]) -> str:
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
