"""Weights that are dealt out over processes, put together again and dealt out anew; plain ones pass unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refseg.distributed import Awaited, from_first


def is_shard(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; all of a plain tensor."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def whole(value: Any, *, is_kept: bool = True) -> Any:
    """Nested dicts and lists with dealt out tensors put together on the CPU; all processes ask for it together.

    Arguments:
        is_kept: whether this process wants them; one that does not gets nothing for memory's sake.
    """
    if isinstance(value, Tensor):
        if not is_shard(value):
            return value
        full = value.full_tensor()  # type: ignore[attr-defined]
        return full.cpu() if is_kept else None
    if isinstance(value, Mapping):
        return {key: whole(item, is_kept=is_kept) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item, is_kept=is_kept) for item in value]
    return value


def dealt(full: Tensor, like: Tensor) -> Tensor:
    """`full` dealt out as `like` is; itself where `like` is plain."""
    if not is_shard(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    on_device = full.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements)  # type: ignore[attr-defined]


@torch.no_grad()
def fill(own: Mapping[str, Tensor], given: Mapping[str, Tensor | Awaited]) -> None:
    """Copies whole tensors, which the first process holds, into those of equal name.

    Raises:
        KeyError: if the names differ, which a state of the same run cannot.
    """
    if own.keys() != given.keys():
        raise KeyError(
            f"the state names other weights than the model: {sorted(own.keys() ^ given.keys())[:4]}"
        )
    for name, tensor in given.items():
        own[name].copy_(dealt(from_first(tensor), own[name]))


def fill_optimizer(optimizer: torch.optim.Optimizer, given: Mapping[str, Any]) -> None:
    """Gives the optimizer a state whose whole tensors the first process holds."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, values in given["state"].items():
        state[number] = {name: _like_parameter(value, parameters[number]) for name, value in values.items()}
    optimizer.load_state_dict({"state": state, "param_groups": given["param_groups"]})


def _like_parameter(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor | Awaited):
        return value
    full = from_first(value)
    return dealt(full, parameter) if full.shape == parameter.shape else full
