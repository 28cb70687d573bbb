"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in UTF-8; the file is whole or unchanged."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
