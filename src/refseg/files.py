"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refseg.errors import InvalidInput


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; takes the name `path` when the block ends well, else disappears.

    The temporary name starts with a dot and keeps the suffix, because writers choose their format by it. Readers of the
    final name never see half a file, even after a kill or on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that a reader knows
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def durable_file(path: Path) -> Iterator[Path]:
    """As `whole_file`; besides, the file and its name have reached the disk when the block ends.

    So a machine that loses power leaves the old file or the new one, and what is written later is never there without
    what was written before.
    """
    with whole_file(path) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in `folder` to the disk, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in UTF-8; the file is whole or unchanged."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_durable_text(path: Path, text: str) -> None:
    """As `write_whole_text`; besides, the text has reached the disk."""
    with durable_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def reason(error: BaseException) -> str:
    """What the system refused: the OSError behind an error of a library that wrote through us, or else its own words."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.strerror:
            return behind.strerror
        behind = behind.__cause__ or behind.__context__
    return str(error)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; takes the name `path`, in place of an earlier one, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = (path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.part") for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.replace(earlier)  # a folder that holds files cannot be replaced in one step
        temporary.replace(path)
    except BaseException:
        if earlier.exists() and not path.exists():
            earlier.replace(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():  # else the earlier folder is all there is, and stays under its hidden name
            shutil.rmtree(earlier, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Proves that files can be written in `folder`, or that it can be made; makes nothing.

    Raises:
        InvalidInput: if a file stands in its place, or the system refuses.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise InvalidInput(
            f"the output folder {folder} cannot be made, because {nearest} is a file; give another folder"
        )
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InvalidInput(
            f"the output folder {folder} cannot be written ({error.strerror}); give another folder, or change its permissions"
        ) from error
