"""Several processes that train together; one process is the ordinary case, and then nothing here costs anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """The number of this process, from 0; rank 0 alone writes files."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient; the same tensor where there is one process.

    Criteria divide by `mean_over_ranks(count)`: so that every phrase weighs the same whichever rank holds it, and
    the mean of the ranks' gradients is the gradient of the whole batch.
    """
    if not _together():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank; plain data and CPU tensors."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def device_of_rank(kind: str) -> torch.device:
    """The device this process trains on: the GPU with its local number, or the only device of that kind."""
    if kind == "cuda" and _together():
        return torch.device("cuda", rank() % torch.cuda.device_count())
    return torch.device(kind)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
