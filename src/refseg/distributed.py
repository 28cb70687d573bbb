"""Several processes that train together; one process is the ordinary case, and then nothing here costs anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from refseg.errors import InvalidInput

Value = TypeVar("Value")

_PATIENCE = timedelta(hours=12)  # others wait while the first process measures
_is_apart = ContextVar("is_apart", default=False)  # see `apart`


class PeerFailed(Exception):
    """Another process cannot go on, and says why itself; this one leaves without a word."""


@dataclass(frozen=True)
class RemoteTensor:
    """A tensor that the first process holds, told of in its place; `from_first` brings it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def start(device: torch.device) -> torch.device:
    """Joins the processes that a launcher such as torchrun has started, and returns the device of this one.

    Without a launcher nothing happens.

    Raises:
        InvalidInput: if this kind of device cannot share work, or on the first process, if a machine has fewer GPUs than processes.
        Refused: on the others then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _together():
        return device
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(
            f"several processes share work on CUDA devices or CPUs, not on {device.type}; give --device cpu, or start one"
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    if device.type == "cuda":
        device = _own_gpu()
        torch.cuda.set_device(device)
    return device


def _own_gpu() -> torch.device:
    """The GPU of this process; two processes cannot exchange gradients on one (NCCL), so all say no before they would."""
    count = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", rank() % count))
    told = gather((number, count))
    lacking = [(n, c) for n, c in told if n >= c]
    if lacking and is_first():
        local, gpus = lacking[0]
        raise InvalidInput(
            f"process {told.index(lacking[0])} asks for GPU {local} of its machine (LOCAL_RANK, from 0), which shows it {gpus}; "
            f"start {gpus} there (--nproc-per-node {gpus}), give --device cpu, or LOCAL_RANK=0 where each is shown a GPU of its own"
        )
    if lacking:
        raise PeerFailed
    return torch.device("cuda", number)


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
def without_sync() -> Iterator[None]:
    """Within, this process counts as the only one: for work that the others do not share in step."""
    before = _is_apart.set(True)
    try:
        yield
    finally:
        _is_apart.reset(before)


def on_first(work: Callable[[], Value]) -> Value | None:
    """What `work` gives on the first process, while the others wait; None on them.

    Raises:
        Exception: on the first process, what `work` raised.
        Refused: on the others, at once, if it raised.
    """
    value, error = None, None
    if is_first():
        try:
            value = work()
        except Exception as raised:
            error = raised
    has_failed = broadcast(error is not None)
    if error is not None:
        raise error
    if has_failed:
        raise PeerFailed
    return value


def on_all(work: Callable[[], Value]) -> Value:
    """What `work` gives on every process, the first one's turn before all others'; on none where it fails on one.

    Raises:
        Exception: what `work` raised, on one process where it did.
        Refused: on the others, at once.
    """
    value, error = on_first(work), None
    if not is_first():
        try:
            value = work()
        except Exception as raised:
            error = raised
    failed = gather(error is not None)
    if error is not None and failed.index(True) == rank():
        raise error
    if any(failed):
        raise PeerFailed
    return cast(Value, value)


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrites tensors by those of the first process; every process gives the same ones in the same order."""
    if not _together():
        return
    for tensor in tensors:
        dist.broadcast(tensor, src=0)


def broadcast(value: Value) -> Value:
    """The first process's value, on all of them; plain data."""
    if not _together():
        return value
    told: list[Any] = [value]
    dist.broadcast_object_list(told, src=0)
    shown: Value = told[0]
    return shown


def outline(value: Any) -> Any:
    """Nested dicts, lists and tuples with tensors told of instead of held."""
    if isinstance(value, Tensor):
        return RemoteTensor(tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {key: outline(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(outline(item) for item in value)
    return value


def from_first(tensor: Tensor | RemoteTensor) -> Tensor:
    """A CPU tensor of the first process, on all of them; every process asks for the same ones in the same order."""
    if not _together():
        assert isinstance(tensor, Tensor), "one process holds its own tensors"
        return tensor
    held = tensor if isinstance(tensor, Tensor) else torch.empty(tensor.shape, dtype=tensor.dtype)
    held = held.contiguous()
    dist.broadcast(held, src=0)
    return held


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank; plain data and CPU tensors."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _together() -> bool:
    return not _is_apart.get() and dist.is_available() and dist.is_initialized()
