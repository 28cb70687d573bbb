"""The verbs of a model through torch.compile, while it learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from refseg.models.base import ReferringModel

_VERBS = ("encode_visual", "encode_text", "segment")


def compile_verbs(model: ReferringModel) -> None:
    """Lets the model's three verbs compute through torch.compile in training; names of weights do not change.

    Measurements, whose pictures have many sizes, and the average of the weights compute as ever.
    """
    for name in _VERBS:
        setattr(model, name, _in_training(model, getattr(model, name)))


def _in_training(model: ReferringModel, verb: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(verb)

    @wraps(verb)
    def either(*given: Any, **named: Any) -> Any:
        return compiled(*given, **named) if model.training else verb(*given, **named)

    return either
