"""A table as one file that is mapped into memory: a header in JSON, then plain arrays. Opening it reads the header alone.

Layout: 8 bytes of magic, 8 bytes with the length of the header (little-endian), the header, then every array at a multiple
of 64 bytes. Whoever opens the file sees a whole one or none, because it is renamed into place when it is complete.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refseg.errors import InvalidInput
from refseg.files import whole_file

_MAGIC = b"refsegT1"
_ALIGN = 64
_KINDS = ("|u1", "<i4", "<i8", "<f8")
_MOST_HEADER = 1 << 28


class Texts:
    """Many texts as one array of UTF-8 and the places where each starts."""

    def __init__(self, starts: np.ndarray, letters: np.ndarray) -> None:
        self.starts, self.letters = starts, letters

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> str:
        return self.letters[self.starts[index] : self.starts[index + 1]].tobytes().decode("utf-8")


class Columns:
    """The arrays of a file by name, and its header's facts; memory is taken by the pages that are looked at.

    It travels to another process by its path: the arrays are mapped there again.
    """

    def __init__(self, path: Path, *, expected: str | None = None) -> None:
        self.path = path
        self.facts, self._places, self._mapped, self._base = _open(path)
        self.key = str(self.facts.get("key", ""))
        if expected is not None and self.key != expected:
            raise InvalidInput(f"the index {path} was built again from other files; open the data set again")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "key": self.key}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"], expected=state["key"])  # type: ignore[misc]

    def array(self, name: str) -> np.ndarray:
        """The array `name`; it cannot be written to."""
        kind, shape, offset = self._places[name]
        count = int(np.prod(shape, dtype=np.int64))
        if not count:
            return np.empty(shape, dtype=kind)
        flat = np.frombuffer(self._mapped, dtype=kind, count=count, offset=self._base + offset)
        return flat.reshape(shape)

    def texts(self, name: str) -> Texts:
        """The texts `name`."""
        return Texts(self.array(f"{name}.starts"), self.array(f"{name}.letters"))


def write_columns(
    path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[str]]
) -> None:
    """Writes a table; the file is whole or unchanged.

    Args:
        path: the file to write.
        facts: what the header says, as plain data.
        arrays: uint8, int32, int64 or float64, by name.
        texts: lists of texts, by name.
    """
    parts = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, lines in texts.items():
        parts |= _letters(name, lines)
    places, offset = {}, 0
    for name, array in parts.items():
        kind = array.dtype.newbyteorder("<").str
        assert kind in _KINDS, f"{name} is {kind}"
        places[name] = [kind, list(array.shape), offset]
        offset = _aligned(offset + array.nbytes)
    header = json.dumps({"facts": facts, "arrays": places}).encode()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        for array in parts.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            file.write(bytes(_aligned(file.tell()) - file.tell()))


def _letters(name: str, lines: Sequence[str]) -> dict[str, np.ndarray]:
    encoded = [line.encode("utf-8", errors="replace") for line in lines]
    starts = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(line) for line in encoded], out=starts[1:])
    letters = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}.starts": starts, f"{name}.letters": letters}


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any], mmap.mmap, int]:
    damaged = InvalidInput(f"the index {path} is damaged; delete it, and it is built again")
    try:
        with path.open("rb") as file:
            start = file.read(16)
            length = int.from_bytes(start[8:16], "little")
            if start[:8] != _MAGIC or length > _MOST_HEADER:
                raise damaged
            header = json.loads(file.read(length))
            size = file.seek(0, 2)
            base = _aligned(16 + length)
            _check_places(header["arrays"], size - base, damaged)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InvalidInput(f"the index {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise damaged from error
    return header["facts"], header["arrays"], mapped, base


def _check_places(places: Mapping[str, Any], room: int, damaged: InvalidInput) -> None:
    for kind, shape, offset in places.values():
        if kind not in _KINDS or min((*shape, offset), default=0) < 0:
            raise damaged
        count = 1
        for side in shape:
            count *= side
        if offset + count * np.dtype(kind).itemsize > room:
            raise damaged
