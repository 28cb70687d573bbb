"""How many rows are computed at once."""

from __future__ import annotations

import torch


def row_steps(count: int, at_once: int) -> list[slice]:
    """Slices that cover `count` rows, `at_once` a step.

    One slice for all where gradients are recorded (everything is kept anyway) and where a program is captured (its
    sizes may be symbols). Small steps bound the memory of inference, and are faster on a CPU: what fits into memory
    that is already there need not be mapped anew.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or count <= at_once:
        return [slice(0, count)]
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def frames_at_once(device: torch.device) -> int:
    """Frames that fill a device: one on a CPU, several where a single one would leave it idle."""
    return 1 if device.type == "cpu" else 8
