"""Archives unpacked without letting them out of their folder: plain files only, under plain names, up to a bound.

An archive is a stranger's program for writing files. What is refused: absolute paths, "..", drive letters, links of every
kind, devices, names that stand there twice, more bytes or files than the bound, damaged and encrypted members. The folder
takes its name when the last file is whole, so that a refused archive leaves nothing.
"""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from refseg.errors import InvalidInput
from refseg.files import whole_folder

MOST_BYTES = 64 << 30
MOST_FILES = 2_000_000
MOST_HEADER = 1 << 20  # bytes of a name or an extended header of a tar file

_CHUNK = 1 << 20
_DRIVE = re.compile(r"^[A-Za-z]:")
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OSError,
)

Step = Callable[[int], None]
"""Told how many bytes were just written."""


@dataclass(frozen=True)
class Bounds:
    """How much an archive may hold."""

    most_bytes: int = MOST_BYTES
    most_files: int = MOST_FILES


@dataclass(frozen=True)
class _Member:
    """One entry of an archive."""

    name: str
    size: int  # as declared
    is_folder: bool
    refusal: str  # why it is not unpacked; empty where it is
    source: Any


def unpack(
    archive: Path,
    folder: Path,
    *,
    inner: str = "",
    bounds: Bounds | None = None,
    on_bytes: Step | None = None,
) -> int:
    """Unpacks a .zip or .tar (.gz, .bz2, .xz) into `folder`, which takes its name when all is whole; returns the files written.

    Arguments:
        inner: only this folder of the archive, without its name; "" is everything.
        bounds: what it may hold; an archive without any bound could fill the disk.

    Raises:
        InvalidInput: if the archive is none or damaged, or holds what is refused; names the entry. Nothing is kept then.
    """
    bounds = bounds or Bounds()
    with _open(archive) as (members, read), whole_folder(folder) as target:
        written = _Written(archive, bounds, on_bytes or (lambda _: None))
        for member in members:
            path = _path_of(member, archive, inner)
            if path is None:
                continue
            if member.is_folder:
                target.joinpath(*path).mkdir(parents=True, exist_ok=True)
            elif path:
                _write(member, target.joinpath(*path), read, written)
        if not written.files:
            what = f"the folder {inner!r}" if inner else "files"
            raise InvalidInput(
                f"the archive {archive.name} holds no {what}; get the archive of this data set"
            )
    return written.files


@dataclass
class _Written:
    """What was written so far, against the bounds."""

    archive: Path
    bounds: Bounds
    on_bytes: Step
    bytes: int = 0
    files: int = 0

    def add_file(self) -> None:
        self.files += 1
        if self.files > self.bounds.most_files:
            raise InvalidInput(
                f"the archive {self.archive.name} holds more than {self.bounds.most_files} files"
            )

    def add_bytes(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.bounds.most_bytes:
            raise InvalidInput(
                f"the archive {self.archive.name} unpacks to more than {self.bounds.most_bytes / 1e9:.1f} GB, which this data set "
                "has not; nothing was kept"
            )
        self.on_bytes(count)


def _path_of(member: _Member, archive: Path, inner: str) -> tuple[str, ...] | None:
    """The parts of the path below the target; None for what lies outside `inner`."""
    name = member.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or _DRIVE.match(name)
        or any(ord(letter) < 32 for letter in name)
    ):
        raise InvalidInput(
            f"the archive {archive.name} would write outside its folder ({name!r}); nothing was kept"
        )
    if member.refusal:
        raise InvalidInput(
            f"the archive {archive.name} holds {member.refusal} ({name!r}), which is not unpacked; nothing was kept"
        )
    wanted = [part for part in inner.split("/") if part]
    if parts[: len(wanted)] != wanted:
        return None
    return tuple(parts[len(wanted) :])


def _write(member: _Member, path: Path, read: Callable[[Any], IO[bytes]], written: _Written) -> None:
    written.add_file()
    if written.bytes + member.size > written.bounds.most_bytes:
        written.add_bytes(member.size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput(
            f"the archive {written.archive.name} holds {member.name!r} twice, or as a file and a folder; nothing was kept"
        ) from error
    with file, _describe_damage(written.archive, member.name), read(member.source) as source:
        while chunk := source.read(_CHUNK):
            written.add_bytes(len(chunk))
            file.write(chunk)


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Iterator[_Member], Callable[[Any], IO[bytes]]]]:
    """The members of an archive, and how one is read."""
    if not archive.is_file():
        raise InvalidInput(f"there is no archive {archive}")
    if zipfile.is_zipfile(archive):
        with _describe_damage(archive), zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened), opened.open
        return
    try:
        tar = tarfile.open(archive, "r:*", tarinfo=_BoundTarInfo)  # noqa: SIM115  closed by the with below
    except _DAMAGE as error:
        raise InvalidInput(
            f"{archive.name} is no .zip or .tar archive, or is damaged; download it again"
        ) from error
    with tar, _describe_damage(archive):
        yield _tar_members(tar), lambda member: _tar_file(tar, member)


@contextmanager
def _describe_damage(archive: Path, name: str = "") -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        where = f" at {name!r}" if name else ""
        raise InvalidInput(
            f"the archive {archive.name} is damaged or encrypted{where} ({error}); download it again"
        ) from error


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in opened.infolist():
        mode = entry.external_attr >> 16  # of archives made on Unix; 0 elsewhere
        kind = stat.S_IFMT(mode)
        refusal = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
        # `filename` ends at a zero byte; what stands behind it must not pass unseen.
        name = getattr(entry, "orig_filename", entry.filename)
        yield _Member(name, entry.file_size, name.endswith("/"), refusal, entry)


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for entry in tar:
        refusal = "" if entry.isreg() or entry.isdir() else "a link or a device"
        yield _Member(entry.name, entry.size, entry.isdir(), refusal, entry)


def _tar_file(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(entry)
    assert opened is not None, "only plain files are read"
    return opened


class _BoundTarInfo(tarfile.TarInfo):
    """A header whose extensions (long names, attributes) are read only up to a bound: they are held in memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.type in kinds and self.size > MOST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]
