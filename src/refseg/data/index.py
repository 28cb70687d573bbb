"""The index of a data set: its annotation files parsed once, kept beside them, and used as long as they stay as they are.

An index knows its sources by size, times and SHA-256. While size and times are as noted, the file is taken for unchanged; where
only the times differ (a copied folder), the hash decides; where the content differs, the index is built again. Two
processes that build at once each write a whole file and rename it: the later one wins, the earlier one keeps what it has mapped.
"""

from __future__ import annotations

import gc
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refseg.data.columns import Columns, write_columns
from refseg.errors import InvalidInput

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
