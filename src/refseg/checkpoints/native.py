"""Our own checkpoint file: safetensors whose header says, as JSON, what the weights are and how to build their model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import refseg
from refseg.checkpoints.configs import from_plain, to_plain
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.files import whole_file
from refseg.models import catalog
from refseg.models.base import ReferringModel

FORMAT = 1
"""The version of the file's layout; a reader refuses a higher one."""

_KEY = "refseg"  # the entry of the safetensors metadata that holds our JSON


@dataclass(frozen=True)
class Header:
    """What a checkpoint file says of itself."""

    family: str
    variant: str
    config: dict[str, Any]  # the model's configuration as plain data
    origin: dict[
        str, str
    ]  # where the weights come from: file, sha256, repository, or the recipe that trained them
    extra: dict[str, str]  # texts that prediction needs beside the weights, such as a tokenizer's file
    version: str  # of the refseg that wrote the file
    sha256: str  # of the tensors: names, types, shapes and values


def save(
    path: Path,
    model: ReferringModel,
    *,
    family: str,
    variant: str,
    origin: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> Header:
    """Writes `model` to `path`, whole or not at all, and returns the header it wrote.

    With `dtype`, floating tensors are stored in that type (float16 halves the file); loading restores float32.

    Raises:
        InvalidInput: if the file cannot be written (no such folder, no room, no permission).
    """
    tensors = _storable(model.state_dict(), dtype)
    config, extra = to_plain(model.config), model.extra_state()
    header = Header(
        family, variant, config, dict(origin), dict(extra), refseg.__version__, tensors_sha256(tensors)
    )
    text = json.dumps({"format": FORMAT, **asdict(header)})
    with written_whole(path) as part:
        save_file(tensors, part, metadata={"format": "pt", _KEY: text})
    return header


def load(path: Path, *, device: str = "cpu") -> tuple[ReferringModel, Header]:
    """The model of a checkpoint file, in float32 and eval mode on `device`, and the file's header.

    Raises:
        InvalidInput: if the file is absent, cut short, or not a refseg checkpoint.
        UnknownName: if its family does not exist here.
        CheckpointMismatch: if its configuration or weights do not fit this version's model.
    """
    header = read_header(path)
    model = blank(header.family, config_of(header))
    load_strictly(model, load_file(path), source=path.name)
    model.load_extra_state(header.extra)
    return model.to(device).eval(), header


def read_header(path: Path) -> Header:
    """What the checkpoint file says of itself; the file's size is checked, its weights are not read.

    Raises:
        InvalidInput: if the file is absent, cut short, or not a refseg checkpoint.
    """
    text = _metadata(path).get(_KEY)
    if text is None:
        raise InvalidInput(
            f"{path} is a safetensors file, but not written by refseg; bring it over with: refseg convert {path} --family F --variant V"
        )
    data = json.loads(text)
    written = data.pop("format", None)
    if not isinstance(written, int) or written > FORMAT:
        raise InvalidInput(
            f"{path} has layout {written}, written by refseg {data.get('version')}; this refseg {refseg.__version__} "
            f"reads up to {FORMAT}: upgrade refseg"
        )
    names = {field.name for field in fields(Header)}
    if set(data) != names:
        raise InvalidInput(f"the header of {path} is damaged: fields {sorted(set(data) ^ names)} are wrong")
    return Header(**data)


def verify(path: Path) -> Header:
    """The header of a file whose weights were read and found to have the sha256 it names.

    Raises:
        InvalidInput: if they differ, or the file is not a whole checkpoint.
    """
    header = read_header(path)
    found = tensors_sha256(load_file(path))
    if found != header.sha256:
        raise InvalidInput(
            f"the weights in {path} are damaged: their sha256 is {found}, the header says {header.sha256}; get the file again"
        )
    return header


def config_of(header: Header) -> Any:
    """The configuration a header describes, as its family's own type."""
    variants = catalog.family(header.family).variants
    like = variants.get(header.variant) or next(iter(variants.values()))
    return from_plain(type(like), header.config, version=header.version)


def blank(family: str, config: Any) -> ReferringModel:
    """A model of `config` whose values wait to be loaded; torch's global generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        return catalog.build(family, config)


def load_strictly(
    model: ReferringModel, state: Mapping[str, Tensor], *, source: str, left: Sequence[str] = ()
) -> None:
    """Puts `state` into `model`: every name and every shape, or nothing; `left` are names of the source not in `state`.

    Raises:
        CheckpointMismatch: with the names left on either side, or the first shapes that differ.
    """
    wrong = difference(model.state_dict(), state, source=source, left=left)
    if wrong is not None:
        raise wrong
    model.load_state_dict(dict(state), strict=True)


def difference(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str, left: Sequence[str] = ()
) -> CheckpointMismatch | None:
    """Why `state` (and the names `left` over) are not the tensors `wanted`; None if they are."""
    missing, unexpected = sorted(set(wanted) - set(state)), [*left, *sorted(set(state) - set(wanted))]
    if missing or unexpected:
        return CheckpointMismatch(f"{source} does not fit the model", missing=missing, unexpected=unexpected)
    wrong = [
        f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if tensor.shape != state[name].shape
    ]
    if not wrong:
        return None
    more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
    return CheckpointMismatch(f"{source} does not fit the model: {', '.join(wrong[:3])}{more}")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors by name: independent of their order and of the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file appears as `path` when all of it is on the disk.

    Raises:
        InvalidInput: if the system refuses to write (no room, no permission).
    """
    try:
        with whole_file(path) as part:
            part.touch()
            mode = (
                part.stat().st_mode
            )  # what the person's umask gives; a library may write with a stricter one
            yield part
            part.chmod(mode)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"cannot write {path}: {error}") from error


def _storable(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """CPU tensors, each contiguous and with memory of its own, as the format demands."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        plain = tensor.detach().to("cpu", kind).contiguous()
        pointer = plain.untyped_storage().data_ptr()
        is_part = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
        stored[name] = plain.clone() if pointer in seen or is_part else plain
        seen.add(pointer)
    return stored


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InvalidInput(f"there is no checkpoint file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"{path} is cut short or not a refseg checkpoint ({error}); get or convert it again"
        ) from error
