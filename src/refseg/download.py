"""Files from the network: resumed where they stopped, checked by sha256, under their final name only when whole."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.errors import InvalidInput
from refseg.version import __version__

Progress = Callable[[int, int | None], None]
"""Told the bytes at hand and the bytes in all, where known."""

_CHUNK = 1 << 20
_TRIES = 4  # of a connection that breaks; each goes on where the last one stopped
_PAUSE = 1.0  # seconds before the second try; doubled for each one after
_TIMEOUT = 30.0  # seconds without a byte
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class _Part:
    """The file as far as it has come, and what the server called it."""

    path: Path

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def known_as(self, url: str) -> str | None:
        """The server's name for this very content (an ETag or a date), if the part came from `url`."""
        try:
            note = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        return note.get("validator") if isinstance(note, dict) and note.get("url") == url else None

    def remember(self, url: str, validator: str | None) -> None:
        self._note.write_text(json.dumps({"url": url, "validator": validator}))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


class Unreachable(InvalidInput):
    """Nothing, or no file, came from an address."""


def download(url: str, target: Path, *, sha256: str | None = None, progress: Progress | None = None) -> str:
    """Fetches `url` to `target` and returns the file's sha256; what an earlier call left is resumed.

    A part that was left is trusted only where the server vouches for it (ETag or date) or `sha256` will.

    Raises:
        Unreachable: if the server refuses, or the connection keeps breaking.
        InvalidInput: if there is no room, or the checksum differs.
    """
    from filelock import FileLock, Timeout

    part = _Part(target.with_name(f".{target.name}.part"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            _receive_all(
                url, part, trusted=sha256 is not None, progress=progress or (lambda _done, _all: None)
            )
            return _settle(part, target, sha256, url)
    except Timeout as error:
        raise InvalidInput(f"{target.name} is being downloaded by another process; wait for it") from error
    except OSError as error:
        raise InvalidInput(
            f"cannot write {target}: {error.strerror or error}; make room and run it again: it goes on where it stopped"
        ) from error


def _settle(part: _Part, target: Path, sha256: str | None, url: str) -> str:
    with part.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if sha256 is not None and found != sha256:
        part.discard()
        raise InvalidInput(
            f"what {url} sent is not the file that was expected: its sha256 is {found}, not {sha256}; nothing was kept"
        )
    part.path.replace(target)
    part.discard()
    return found


def _receive_all(url: str, part: _Part, *, trusted: bool, progress: Progress) -> None:
    for attempt in range(_TRIES):
        before = part.size()
        try:
            _receive(url, part, trusted=trusted, progress=progress)
            return
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _OF_THE_DISK:
                raise
            if attempt == _TRIES - 1 or _is_final(error):
                raise Unreachable(f"{url} cannot be fetched: {_reason(error)}{_kept(part)}") from error
            time.sleep(0 if part.size() > before else _PAUSE * 2**attempt)


def _is_final(error: Exception) -> bool:
    """Whether the server has said no, rather than nothing."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror):
        return f"no such host is known from here, perhaps for want of a network ({reason.strerror})"
    return str(reason) or type(error).__name__


def _kept(part: _Part) -> str:
    return f"; {part.size()} bytes are kept, run it again to go on" if part.size() else ""


def _receive(url: str, part: _Part, *, trusted: bool, progress: Progress) -> None:
    """One connection: from where the part ends, or from the beginning if it cannot be trusted or the server cannot."""
    validator = part.known_as(url)
    if part.size() and validator is None and not trusted:
        part.discard()
    start = part.size()
    request = urllib.request.Request(url, headers={"User-Agent": f"refseg/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator is not None:
            request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if _total(error.headers) == start:
            return  # the part is whole: only the last step was missing
        part.discard()
        return _receive(url, part, trusted=trusted, progress=progress)
    with response:
        return _store(response, url, part, progress)


def _store(response: Any, url: str, part: _Part, progress: Progress) -> None:
    if response.headers.get_content_type() == "text/html":
        raise InvalidInput(
            f"{url} answered with a web page, not a file; open it in a browser to see what it asks"
        )
    start = _start_of(response)
    if start not in (0, part.size()):
        part.discard()
        raise ConnectionError(f"the server sent bytes from {start} on, which were not asked for")
    total = _total(response.headers) or _length(response.headers, start)
    if total is not None:
        _check_room(part.path.parent, total - start)
    part.remember(url, _validator(response.headers))
    done = start
    with part.path.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        progress(done, total)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _start_of(response: Any) -> int:
    """Where the bytes of an answer begin; -1 where the server does not say it rightly."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(span[1]) if span else -1


def _total(headers: Any) -> int | None:
    after = headers.get("Content-Range", "").rpartition("/")[2]
    return int(after) if after.isdigit() else None


def _length(headers: Any, start: int) -> int | None:
    length = headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _validator(headers: Any) -> str | None:
    # A weak tag promises alike, not equal, bytes.
    tag: str | None = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidInput(
            f"{folder} has room for {free / 1e6:.0f} MB, and {needed / 1e6:.0f} MB are still to come; make room, "
            "or name a folder on another disk (REFSEG_HOME for checkpoints, --root for data)"
        )


@contextmanager
def shown(label: str) -> Iterator[Progress | None]:
    """A progress bar on the terminal, if stderr is one; None otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
