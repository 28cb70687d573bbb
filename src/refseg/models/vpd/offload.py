"""Large parts that wait on the CPU and take turns on a small device, by the hooks of accelerate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from refseg.errors import InvalidInput


def take_turns(parts: Sequence[nn.Module], device: torch.device) -> None:
    """From now on each part moves to `device` when it is called, and the one before it in the ring back to the CPU.

    Raises:
        InvalidInput: if accelerate is not installed; the message says what to type.
    """
    try:
        from accelerate import cpu_offload_with_hook
    except ImportError as error:
        raise InvalidInput(
            "keeping parts of VPD on the CPU needs accelerate, which is not installed; type: pip install accelerate"
        ) from error
    hooks: list[Any] = []
    for part in parts:
        part.to("cpu")
        hooks.append(cpu_offload_with_hook(part, device, hooks[-1] if hooks else None)[1])
    hooks[0].hook.prev_module_hook = hooks[-1]  # the second picture begins where the first one ended
