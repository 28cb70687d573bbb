"""Less memory for more time: blocks forget what they computed on the way forward and compute it again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel


def recompute_activations(model: ReferringModel) -> None:
    """Lets the model's `recomputed_blocks` keep no activations in training; what they compute stays the same.

    Names of weights do not change. Random numbers of a block (dropout) are drawn alike both times.

    Raises:
        InvalidInput: if the model names no such block.
    """
    blocks = model.recomputed_blocks()
    if not blocks:
        raise InvalidInput(
            f"{type(model).__name__} has no blocks that can be computed again; set run.checkpoint_activations = false"
        )
    for block in blocks:
        block.forward = _recomputing(block, block.forward)  # type: ignore[method-assign]


def _recomputing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def recomputed(*given: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*given, **named)
        return checkpoint(forward, *given, use_reentrant=False, **named)

    return recomputed
