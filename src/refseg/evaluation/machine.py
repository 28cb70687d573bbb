"""The machine that a number was measured on; a speed or a memory without it says nothing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from refseg.version import __version__

_FEWEST_PRODUCTS = 3  # the first one warms up


@dataclass(frozen=True, slots=True)
class Machine:
    """What computed, with which versions, and when."""

    device: str  # the GPU's name, or "cpu"
    processor: str
    cores: int  # that this process may use
    threads: int  # that torch uses
    memory_bytes: int
    system: str
    python: str
    torch: str
    refseg: str
    date: str  # UTC, ISO 8601
    load: (
        float | None
    )  # jobs waiting for a processor, over the last minute; a quiet machine has less than one

    def sentence(self) -> str:
        """The machine in one line."""
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        where = "" if self.device == "cpu" else f"{self.device}, "
        load = "" if self.load is None else f", load {self.load:.1f}"
        return (
            f"{where}{self.processor}, {self.threads} threads on {self.cores} cores, {memory}; {self.system}, "
            f"Python {self.python}, torch {self.torch}, refseg {self.refseg}; {self.date}{load}"
        )


def this_machine(device: torch.device | str = "cpu") -> Machine:
    """This machine, computing on `device`, now."""
    place = torch.device(device)
    return Machine(
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=_memory(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        refseg=__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def matrix_rate(dtype: torch.dtype, device: torch.device | str = "cpu", *, seconds: float = 0.5) -> float:
    """Floating-point operations per second of a large matrix product, the best of those made in `seconds`.

    What a network needs, divided by this, is the least time that it can take here.
    """
    place = torch.device(device)
    side = 1024 if place.type == "cpu" else 8192
    left, right = (torch.ones(side, side, dtype=dtype, device=place) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _FEWEST_PRODUCTS or time.perf_counter() < end:
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
