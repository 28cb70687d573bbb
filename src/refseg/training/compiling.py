"""The verbs of a model through torch.compile, while it learns."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Any

import torch

from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel

_VERBS = ("encode_visual", "encode_text", "segment")
_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_verbs(model: ReferringModel) -> None:
    """Lets the model's three verbs compute through torch.compile in training; names of weights do not change.

    Measurements, whose pictures have many sizes, and the average of the weights compute as ever.
    """
    for name in _VERBS:
        setattr(model, name, _in_training(model, getattr(model, name)))


def must_compile(device: torch.device) -> None:
    """Refuses a machine on which torch.compile has nothing to compile with.

    Raises:
        InvalidInput: naming what is missing.
    """
    if device.type == "mps":
        raise InvalidInput(
            "run.compile needs a CPU or a CUDA device, and this is MPS; set run.compile = false"
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise InvalidInput(
            "run.compile needs triton on CUDA devices, and it is not installed; install it, or set run.compile = false"
        )
    named = os.environ.get("CXX")
    if device.type == "cpu" and not any(map(shutil.which, [named] if named else _COMPILERS)):
        raise InvalidInput(
            "run.compile needs a C++ compiler on CPUs, and there is none; install g++, name one by CXX, or set run.compile = false"
        )


def _in_training(model: ReferringModel, verb: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(verb)

    @wraps(verb)
    def either(*given: Any, **named: Any) -> Any:
        return compiled(*given, **named) if model.training else verb(*given, **named)

    return either
