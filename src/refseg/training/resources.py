"""Memory, disk and cores of this machine, and the bytes that a training holds from its first step to its last."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


_WITHOUT_LIMIT = 1 << 60  # version 1 of control groups writes a huge number where there is no limit


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """Memory of a device, in bytes."""

    device: str
    free: int
    total: int
    limit: str = ""  # what makes it smaller than the machine's: "control group"


def memory_on(device: torch.device) -> MemoryRoom | None:
    """The memory of a device that a run could take now; None where the system does not tell."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return MemoryRoom(str(device), free, total)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return MemoryRoom("mps", total - torch.mps.driver_allocated_memory(), total)
    return main_memory()


def main_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> MemoryRoom | None:
    """Main memory that is free or can be freed, within the limits of the control groups this process is in."""
    told = _fields(proc / "meminfo")
    if "MemAvailable" not in told:
        return None
    free, total, limit = 1024 * told["MemAvailable"], 1024 * told["MemTotal"], ""
    for most, used in _limits(proc, groups):
        if most < total:
            total, limit = most, "control group"
        free = min(free, max(0, most - used))
    return MemoryRoom("cpu", free, total, limit)


def free_disk(folder: Path) -> int:
    """Bytes that may be written below `folder`, which need not exist yet."""
    return shutil.disk_usage(nearest_folder(folder)).free


def nearest_folder(folder: Path) -> Path:
    """The folder, or the innermost one above it that exists."""
    return next(p for p in (folder, *folder.absolute().parents) if p.is_dir())


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not tell."""
    return 1024 * _fields(_PROC / "self" / "status").get("VmRSS", 0)


def childrens_bytes(proc: Path = _PROC) -> int:
    """Memory that the children of this process have for themselves; what they share with it is not counted again."""
    total = 0
    for listed in (proc / "self" / "task").glob("*/children"):
        try:
            numbers = listed.read_text().split()
        except OSError:  # a thread that has just ended
            continue
        for number in numbers:
            told = _fields(proc / number / "smaps_rollup")
            total += 1024 * (told.get("Private_Clean", 0) + told.get("Private_Dirty", 0))
    return total


@contextmanager
def watch_children(every: float = 0.1) -> Iterator[list[int]]:
    """A list whose only entry is the most that `childrens_bytes` has told while the block lasts."""
    most, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(every):
            most[0] = max(most[0], childrens_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def _limits(proc: Path, groups: Path) -> list[tuple[int, int]]:
    """(limit, use) of every control group with a limit that this process is in, both versions."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = groups / "memory" if controllers else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")  # fmt: skip
        place = root / path.lstrip("/")
        # In a container the path may be that of the host, which is not there: the root then is the group itself.
        for folder in (place, *place.parents):
            limit = _limit(folder, *names)
            found += [limit] if limit is not None else []
            if folder == root:
                break
    return found


def _limit(folder: Path, most: str, used: str) -> tuple[int, int] | None:
    try:
        limit, use = (folder / most).read_text().strip(), int((folder / used).read_text())
    except (OSError, ValueError):
        return None
    if not limit.isdigit() or int(limit) >= _WITHOUT_LIMIT:
        return None
    # Pages of files that have been read count as used, and go as soon as memory is asked for.
    return int(limit), use - _fields(folder / "memory.stat").get("inactive_file", 0)


def _fields(path: Path) -> dict[str, int]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {key: int(value) for key, value in re.findall(r"^(\w+)[: \t]+(\d+)", text, re.MULTILINE)}


def local_processes() -> int:
    """Processes of this run that share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_PROBE = 8  # numbers of the parameter that an optimizer is tried on


@dataclass(frozen=True, slots=True)
class TrainingBytes:
    """Bytes on one process."""

    weights: int  # with statistics of norms and other buffers
    gradients: int
    optimizer: int
    average: int  # 0 without run.ema

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average

    def on_each(self, count: int) -> TrainingBytes:
        """A part of all, where `count` processes share it out."""
        return TrainingBytes(
            *(value // count for value in (self.weights, self.gradients, self.optimizer, self.average))
        )


def training_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, *, is_averaged: bool) -> TrainingBytes:
    """What a training holds once it has made a step; activations, which depend on the batch, are not among it."""
    weights = _bytes_of([*model.parameters(), *model.buffers()])
    return TrainingBytes(
        weights=weights,
        gradients=_bytes_of(p for p in model.parameters() if p.requires_grad),
        optimizer=optimizer_bytes(optimizer),
        average=weights if is_averaged else 0,
    )


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state of an optimizer whose rule moves every number by itself (Adam, SGD), told before its first step.

    Arguments:
        optimizer: what it keeps beside a parameter is found by a step of another one of its class on a small parameter.
    """
    total = 0
    for group in optimizer.param_groups:
        probe = nn.Parameter(torch.zeros(_PROBE))
        probe.grad = torch.zeros(_PROBE)
        settings = {key: value for key, value in group.items() if key in optimizer.defaults}
        tried = type(optimizer)(
            [probe], **{key: settings[key] for key in _accepted_settings(optimizer, settings)}
        )
        tried.step()
        kept = [value for value in tried.state[probe].values() if isinstance(value, Tensor)]
        along = [value for value in kept if value.numel() == _PROBE]
        fixed = _bytes_of(value for value in kept if value.numel() != _PROBE)
        for parameter in group["params"]:
            total += len(along) * parameter.numel() * parameter.element_size() + fixed
    return total


def _accepted_settings(optimizer: torch.optim.Optimizer, settings: dict[str, object]) -> list[str]:
    """The settings that the optimizer's class takes; some of torch's add defaults that it does not."""
    names = type(optimizer).__init__.__code__.co_varnames
    return [key for key in settings if key in names]


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
