"""Several processes that train together; one process is the ordinary case, and then nothing here costs anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = timedelta(hours=12)  # others wait while the first process measures
_BUCKET = 25 << 20  # numbers that are sent at once
_is_apart = False  # see `apart`


def start(device: torch.device) -> torch.device:
    """Joins the processes that a launcher such as torchrun has started, and returns the device of this one.

    Without a launcher nothing happens.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _together():
        return device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leaves the others."""
    if _together():
        dist.destroy_process_group()


def wait() -> None:
    """Returns when every process has come here."""
    if _together():
        dist.barrier()


def any_of(claim: bool, device: torch.device) -> bool:
    """Whether some process makes the claim."""
    if not _together():
        return claim
    said = torch.tensor([float(claim)], device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())


def total(count: int, device: torch.device) -> int:
    """The sum of a count over all processes."""
    if not _together():
        return count
    summed = torch.tensor([count], device=device)
    dist.all_reduce(summed)
    return int(summed.item())


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Gives every process the mean of all gradients; a parameter that none has used stays without one."""
    if not _together():
        return
    every = [parameter for parameter in parameters if parameter.requires_grad]
    if not every:
        return
    used = torch.tensor([float(p.grad is not None) for p in every], device=every[0].device)
    dist.all_reduce(used)
    moved = [p for p, count in zip(every, used.tolist(), strict=True) if count]
    for parameter in moved:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(moved):
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(parameters: list[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """Parameters of one type in groups that are sent at once."""
    buckets: list[list[torch.nn.Parameter]] = []
    size = _BUCKET
    for parameter in sorted(parameters, key=lambda p: str(p.dtype)):
        if size + parameter.numel() > _BUCKET or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel()
    return buckets


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
    """The mean of a tensor over all processes, without gradient; the same tensor where there is one process."""
    if not _together():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def mean_count(count: Tensor) -> Tensor:
    """What criteria divide by: the mean over all processes of counts, none of which is below one in all processes together.

    So every phrase weighs the same whichever rank holds it, the mean of the ranks' terms is the term of the whole batch,
    and the mean of their gradients is its gradient.
    """
    return mean_over_ranks(count.float()).clamp(min=1 / world_size())


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, through which gradients flow to all of them."""
    return _Summed.apply(value) if _together() else value


class _Summed(torch.autograd.Function):
    """Every process's value enters every process's sum, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def largest(values: Tensor) -> Tensor:
    """The greatest of each number over all processes."""
    if not _together():
        return values
    found = values.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


@contextmanager
def apart() -> Iterator[None]:
    """Within, this process counts as the only one: for work that the others do not share in step."""
    global _is_apart
    before, _is_apart = _is_apart, True
    try:
        yield
    finally:
        _is_apart = before


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank; plain data and CPU tensors."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _together() -> bool:
    return not _is_apart and dist.is_available() and dist.is_initialized()
