"""Safetensors files tensor by tensor: no more than one of them is in memory beside the model or the file it comes from.

The layout is the one of https://github.com/huggingface/safetensors: the length of a JSON header, the header, the values
in the order of their offsets. Reading copies into ordinary memory, so a file may be replaced while its weights are in use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from refseg.errors import InvalidInput

_LENGTH_BYTES = 8
_ALIGNMENT = 8  # of the first value
_MOST_HEADER_BYTES = 100_000_000  # what safetensors itself accepts
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {code: dtype for dtype, code in _CODES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, and what it is."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int  # in the file

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def like(self) -> Tensor:
        """A tensor of its shape and type, without values."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Source = Callable[[], Tensor]
"""Gives one tensor when asked; asked as often as its values are needed."""


def entries_of(path: Path) -> dict[str, Entry]:
    """What a file holds, by name, in the order of the file.

    Raises:
        InvalidInput: if the header is damaged, or speaks of values that are not there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > min(size, _MOST_HEADER_BYTES):
            raise InvalidInput(f"{path} is cut short or no safetensors file; get it again")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    begin = _LENGTH_BYTES + length
    found = {name: _entry(name, told, begin, path) for name, told in header.items()}
    end = begin
    for entry in sorted(found.values(), key=lambda entry: entry.start):
        if entry.start != end:
            raise InvalidInput(f"the header of {path} is damaged; get the file again")
        end += entry.num_bytes
    if end != size:
        raise InvalidInput(f"{path} is cut short; get it again")
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def read_into(path: Path, targets: Mapping[str, Tensor]) -> None:
    """Fills tensors with what a file holds under their names, one after the other, cast to their types."""
    entries = entries_of(path)
    with path.open("rb") as file:
        for name, entry in entries.items():
            target = targets[name]
            if target.dtype == entry.dtype and target.is_contiguous() and target.device.type == "cpu":
                _fill(file, entry, target)
            else:
                target.copy_(_read(file, entry))


def read_one(path: Path, entry: Entry) -> Tensor:
    """One tensor of a file, in memory of its own."""
    with path.open("rb") as file:
        return _read(file, entry)


def write_one_by_one(
    path: Path, sources: Mapping[str, Source], like: Mapping[str, Tensor], *, text: dict[str, str]
) -> None:
    """Writes tensors that are asked for one after the other.

    Arguments:
        like: their shapes and types, by the same names; values are not looked at, and may be on the device meta.
        text: the metadata of the file.
    """
    # Wide types first, then by name, as safetensors orders them: every value starts at a multiple of its own size.
    order = sorted(sources, key=lambda name: (-like[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": text}
    end = 0
    for name in order:
        start, end = end, end + like[name].numel() * like[name].dtype.itemsize
        kind = {"dtype": _CODES[like[name].dtype], "shape": list(like[name].shape)}
        header[name] = kind | {"data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(_LENGTH_BYTES, "little") + told)
        for name in order:
            file.write(as_bytes(_checked(name, sources[name](), like[name])))


def as_bytes(tensor: Tensor) -> memoryview:
    """The values of a contiguous CPU tensor as they lie in memory."""
    plain = tensor.detach().cpu().contiguous()
    return plain.flatten().view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


def _checked(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    assert tensor.shape == like.shape and tensor.dtype == like.dtype, f"{name} is not what was announced"
    return tensor


def _entry(name: str, told: dict[str, Any], begin: int, path: Path) -> Entry:
    try:
        shape = tuple(int(side) for side in list.copy(told["shape"]))  # a text has letters, not sides
        first, last = told["data_offsets"]
        entry = Entry(shape, _TYPES[str(told["dtype"])], begin + int(first))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"the header of {path} is damaged at {name}; get the file again") from error
    if min((*shape, 0)) < 0 or entry.num_bytes != int(last) - int(first):
        raise InvalidInput(f"the header of {path} is damaged at {name}; get the file again")
    return entry


def _read(file: BinaryIO, entry: Entry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    _fill(file, entry, tensor)
    return tensor


def _fill(file: BinaryIO, entry: Entry, tensor: Tensor) -> None:
    if entry.num_bytes:
        file.seek(entry.start)
        file.readinto(as_bytes(tensor))  # type: ignore[attr-defined]
