"""Foreign weight files to a flat dict of tensors: .pth and .pt in both of torch's forms, .pkl, .safetensors, Keras' .h5.

What a file is, its first bytes say, not its name. No code in a file is ever run.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from refseg.checkpoints import keras
from refseg.checkpoints.pickles import Array, load_pickle, load_torch
from refseg.errors import InvalidInput
from refseg.models.base import StateDict

_STATE_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "blobs",
)
"""Under which a file keeps its state dict, in the order of preference."""

_PART_FILES = tuple(
    f"{name}{kind}"
    for kind in (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin")
    for name in ("diffusion_pytorch_model", "model", "pytorch_model")
)
"""What diffusers calls the weights of one part; single precision before half."""

_LEGACY_MAGIC = (
    b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that every legacy torch file begins with
)


def read(path: Path) -> StateDict:
    """The tensors of a weight file by name: its state dict, without a common `module.` prefix, on the CPU.

    Zip and safetensors files are mapped into memory, not read. Everything beside the state dict (optimiser, arguments)
    is left behind.

    Raises:
        InvalidInput: if the file is absent, empty, cut short, no checkpoint, hostile, or holds no named tensors.
    """
    path = Path(path)
    head = _head(path)
    _refuse_what_is_no_checkpoint(path, head)
    content, state = _content(path, head)
    if not state:
        raise InvalidInput(
            f"{path} holds no tensors by name{_seen(content)}; give the file with the model's state dict"
        )
    return _without_prefix(state, "module.")


def read_folder(path: Path) -> StateDict:
    """The tensors of a model that diffusers keeps as a folder: those of part `unet` are called `unet/...`, and so on.

    Raises:
        InvalidInput: if no part holds weights, or one cannot be read.
    """
    state: StateDict = {}
    for part in sorted(folder for folder in path.iterdir() if folder.is_dir()):
        file = next((part / name for name in _PART_FILES if (part / name).is_file()), None)
        if file is not None:
            state |= {f"{part.name}/{name}": tensor for name, tensor in read(file).items()}
    if not state:
        raise InvalidInput(
            f"{path} is a folder without parts that hold weights, such as unet/{_PART_FILES[0]}; give the weight file itself"
        )
    return state


def _content(path: Path, head: bytes) -> tuple[Any, StateDict]:
    """All that a file holds, and the state dict in it."""
    try:
        content = _load(path, head)
        return content, _state_dict(content)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except PermissionError as error:
        raise InvalidInput(f"{path} cannot be read: permission denied") from error
    except Exception as error:
        # A damaged pickle can fail in any way its opcodes can; whatever it is, the file is at fault.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InvalidInput(f"{path} is damaged or cut short ({reason}); download or copy it again") from error


def _load(path: Path, head: bytes) -> Any:
    if _is_safetensors(head):
        return load_file(path)
    if head.startswith(keras.SIGNATURE):
        return keras.read_keras(path)
    if head.startswith(b"PK"):
        return load_torch(path, mapped=True)
    if _LEGACY_MAGIC in head[:32]:
        return load_torch(path)
    with path.open("rb") as file:
        return load_pickle(file)


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give the weight file inside it")
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _refuse_what_is_no_checkpoint(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise InvalidInput(f"{path} is empty; the download did not happen: get it again")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise InvalidInput(
            f"{path} is a web page, not weights: the site answered with a question or an error; open its link in a browser, "
            "or let refseg fetch it with: refseg models get NAME"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InvalidInput(
            f"{path} is a pointer of git-lfs, not weights; fetch the file itself with: git lfs pull"
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or tarfile.is_tarfile(
        path
    ):
        raise InvalidInput(f"{path} is an archive; unpack it and give the weight file inside")
    if head.startswith(b"PK"):
        _refuse_other_zips(path)
    elif not (_is_safetensors(head) or head.startswith(keras.SIGNATURE) or _looks_pickled(head)):
        raise InvalidInput(f"{path} is not a checkpoint: known are .pth, .pt, .pkl, .safetensors and .h5")


def _refuse_other_zips(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise InvalidInput(
            f"{path} is damaged or cut short (its table of contents cannot be read); download it again"
        ) from error
    if "constants.pkl" in names:
        raise InvalidInput(
            f"{path} is a TorchScript program, not weights; give the state dict it was made from"
        )
    if "data.pkl" not in names:
        raise InvalidInput(f"{path} is a zip archive; unpack it and give the weight file inside")


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30


def _looks_pickled(head: bytes) -> bool:
    # Protocol 2 and later announce themselves; earlier ones begin with a dict, a list or a class.
    return (head[:1] == b"\x80" and head[1] <= pickle.HIGHEST_PROTOCOL) or head[:2] in (
        b"(d",
        b"(l",
        b"cc",
        b"}q",
    )


def _state_dict(content: Any, depth: int = 3) -> StateDict:
    """The named tensors of what a file holds: those it names itself, or those under a key that state dicts go by."""
    if not isinstance(content, Mapping):
        return {}
    found = {
        name: tensor
        for name, value in content.items()
        if isinstance(name, str) and (tensor := _tensor(value)) is not None
    }
    if found and not any(isinstance(content.get(key), Mapping) for key in _STATE_KEYS):
        return found
    inner = (content[key] for key in _STATE_KEYS if key in content) if depth else ()
    return next((state for state in (_state_dict(value, depth - 1) for value in inner) if state), {})


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Array):
        return value.tensor()
    return value.detach() if isinstance(value, torch.Tensor) else None


def _without_prefix(state: StateDict, prefix: str) -> StateDict:
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _seen(content: Any) -> str:
    if isinstance(content, Mapping):
        return f" (its entries: {', '.join(map(str, list(content)[:8])) or 'none'})"
    return f" (it is a {type(content).__name__})"
