"""How many rows are computed at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def row_steps(count: int, at_once: int) -> list[slice]:
    """Slices that cover `count` rows, `at_once` a step.

    One slice for all where gradients are recorded (everything is kept anyway) and where a program is captured (its
    sizes may be symbols). Small steps bound the memory of inference, and are faster on a CPU: what fits into memory
    that is already there need not be mapped anew.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or count <= at_once:
        return [slice(0, count)]
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def gather(parts: Iterable[tuple[Tensor, ...]], count: int) -> tuple[Tensor, ...]:
    """Several results of `count` rows each out of parts of consecutive rows, without holding both parts and wholes.

    A single part is given back as it is, with its gradients.
    """
    wholes: tuple[Tensor, ...] = ()
    done = 0
    for part in parts:
        if len(part[0]) == count:
            return part
        wholes = wholes or tuple(_room_for(rows, count) for rows in part)
        for whole, rows in zip(wholes, part, strict=True):
            whole[done : done + len(rows)] = rows
        done += len(part[0])
    return wholes


def _room_for(rows: Tensor, count: int) -> Tensor:
    """An empty tensor of `count` rows in the layout of `rows`."""
    size = (count, *rows.shape[1:])
    is_last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(size, dtype=rows.dtype, device=rows.device, memory_format=layout)


def frames_at_once(device: torch.device) -> int:
    """Frames that fill a device: one on a CPU, several where a single one would leave it idle."""
    return 1 if device.type == "cpu" else 8
