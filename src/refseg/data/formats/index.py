"""A table as one file that is mapped into memory: a header in JSON, then plain arrays. Opening it reads the header alone.

Layout: 8 bytes of magic, 8 bytes with the length of the header (little-endian), the header, then every array at a multiple
of 64 bytes. Whoever opens the file sees a whole one or none, because it is renamed into place when it is complete.

The index of a data set: its annotation files parsed once, kept beside them, and used as long as they stay as they are.

An index knows its sources by size, times and SHA-256. While size and times are as noted, the file is taken for unchanged; where
only the times differ (a copied folder), the hash decides; where the content differs, the index is built again. Two
processes that build at once each write a whole file and rename it: the later one wins, the earlier one keeps what it has mapped.
"""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


VERSION = 3
"""Of what an index holds; another one is built again."""


_STALE = 3600.0  # seconds after which a half-written file belongs to nobody


@dataclass(frozen=True, slots=True)
class Table:
    """What is written into an index."""

    facts: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    texts: Mapping[str, Sequence[str]]


def open_index(path: Path, sources: Sequence[Path], build: Callable[[], Table]) -> Columns:
    """The index at `path`, built from `sources` where there is none that belongs to them.

    Where the folder cannot be written, the index is kept in the user's cache folder.

    Raises:
        InvalidInput: if a source cannot be read, or what `build` raises.
    """
    stamps = [_stamp(source) for source in sources]
    places = (path, _elsewhere(path))
    for place in places:
        found = _usable(place, sources, stamps)
        if found is not None:
            return found
    hashes = [_sha256(source) for source in sources]
    with _without_collector():
        table = build()
    if [_stamp(source) for source in sources] != stamps:
        raise InvalidInput(f"{sources[0]} was changed while it was read; open the data set again")
    facts = table.facts | {
        "version": VERSION,
        "sources": [
            {"name": source.name, "stamp": stamp, "sha256": digest}
            for source, stamp, digest in zip(sources, stamps, hashes, strict=True)
        ],
        "key": _key(hashes),
    }
    for place in places:
        try:
            _sweep(place)
            write_columns(place, facts, table.arrays, table.texts)
        except OSError:  # a folder that cannot be written, a full disk: the next place is tried
            continue
        return Columns(place)
    raise InvalidInput(
        f"the index of {sources[0]} can be written neither beside it nor to {places[1].parent}; make room, or let one of them be written"
    )


def _usable(place: Path, sources: Sequence[Path], stamps: Sequence[list[int]]) -> Columns | None:
    if not place.is_file():
        return None
    try:
        found = Columns(place)
    except InvalidInput:
        return None  # damaged: it is built again
    return found if _belongs(found.facts, sources, stamps) else None


def _belongs(facts: Mapping[str, Any], sources: Sequence[Path], stamps: Sequence[list[int]]) -> bool:
    noted = facts.get("sources", [])
    if facts.get("version") != VERSION or [entry["name"] for entry in noted] != [s.name for s in sources]:
        return False
    for entry, source, stamp in zip(noted, sources, stamps, strict=True):
        if entry["stamp"] == stamp:
            continue
        if entry["stamp"][0] != stamp[0] or entry["sha256"] != _sha256(source):
            return False
    return True


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of new lists and dicts, none of them garbage, make the collector half of the work."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _key(hashes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([str(VERSION), *hashes]).encode()).hexdigest()


def _stamp(source: Path) -> list[int]:
    """Size and times; the time of the last change of the entry cannot be set back as the other can."""
    try:
        status = source.stat()
    except OSError as error:
        raise InvalidInput(
            f"there is no file {source}" if not source.exists() else f"{source} cannot be read"
        ) from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _sha256(source: Path) -> str:
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"{source} cannot be read: {error.strerror}") from error


def _elsewhere(path: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refseg" / "indexes"
    if not base.is_absolute():
        base = Path(tempfile.gettempdir()) / "refseg-indexes"
    mark = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    return base / f"{mark}-{path.name.lstrip('.')}"


def _sweep(path: Path) -> None:
    """Takes away what a killed process left half written."""
    for left in path.parent.glob(f".{path.stem[:40]}.*.part{path.suffix}"):
        try:
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink()
        except OSError:
            continue  # another process was faster
