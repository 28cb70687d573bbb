"""Precision of what must not be rounded."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is more precise."""
    return x if x.dtype == torch.float64 else x.float()
