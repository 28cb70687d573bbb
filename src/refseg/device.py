"""The device and the number format that a model runs in: from what was asked for to what the machine has."""

from __future__ import annotations

import torch

from refseg.errors import InvalidInput

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(asked: str | torch.device = "auto") -> torch.device:
    """The torch device for `asked`; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        InvalidInput: if it is no device's name, or this machine has no such device.
    """
    if str(asked) == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise InvalidInput(f"{asked!r} is no device; give auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda":
        _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput(
            f"device {str(asked)!r} was asked for, and this machine has no MPS; use --device auto or cpu"
        )
    if device.type not in ("cpu", "cuda", "mps"):
        raise InvalidInput(f"device {str(asked)!r} is not supported; give auto, cpu, cuda, cuda:1 or mps")
    return device


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        why = (
            "this PyTorch was built without CUDA"
            if torch.version.cuda is None
            else "no CUDA device is visible"
        )
        raise InvalidInput(f"device {str(device)!r} was asked for, and {why}; use device auto or cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise InvalidInput(
            f"device {str(device)!r} was asked for, and there are {count} CUDA devices, counted from 0"
        )


def find_dtype(asked: torch.dtype | str | None) -> torch.dtype:
    """The torch dtype for `asked`; float32 for None.

    Raises:
        InvalidInput: if it is none of float32, bfloat16 and float16.
    """
    if asked is None:
        return torch.float32
    if isinstance(asked, str) and asked in DTYPES:
        return DTYPES[asked]
    if isinstance(asked, torch.dtype) and asked in DTYPES.values():
        return asked
    raise InvalidInput(f"dtype {str(asked)!r} is not one that predicts; give one of {', '.join(DTYPES)}")
