"""A published data set brought to its place: fetched and unpacked where that is allowed, told in words where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refseg.data.archives import Bounds, unpack
from refseg.data.published import COCO, COCO_FOLDERS, ByHand, Direct, offer_of
from refseg.download import Progress, Unreachable, download
from refseg.errors import InvalidInput
from refseg.files import check_writable, write_whole_text

DOWNLOADS, RECEIPT = ".downloads", ".refseg-source.json"

Shown = Callable[[str], AbstractContextManager[Progress | None]]
"""A progress bar with a name, for as long as a block lasts."""


@dataclass(frozen=True)
class Got:
    """What became of one part of a data set."""

    part: Direct | ByHand
    place: Path
    state: Literal["there", "fetched", "by hand"]
    files: int = 0
    sha256: str | None = None

    def __str__(self) -> str:
        if isinstance(self.part, ByHand):
            return f"by hand ({self.part.why}):\n  page:  {self.part.page}\n  file:  {self.part.file}\n  place: {self.place}"
        if self.state == "there":
            return f"{self.place} is there already"
        return f"{self.place}: {self.files} files from {self.part.file}, sha256 {self.sha256} ({self.part.licence})"


def get(
    name: str,
    root: Path,
    *,
    with_pictures: bool,
    archives: Sequence[Path] = (),
    shown: Shown,
    force: bool = False,
    keeps_archives: bool = False,
) -> list[Got]:
    """Brings the data set `name` below `root` and returns what became of each of its parts.

    Arguments:
        with_pictures: whether pictures are fetched too, where they are an archive of their own.
        archives: archives that a person has fetched, under the names that the publishers gave them.
        force: whether a folder that stands in the place of another one is replaced.
        keeps_archives: whether an archive that was fetched stays after it is unpacked.

    Raises:
        UnknownName: if no published data set is called so.
        InvalidInput: if a server refuses, an archive is damaged or hostile, a folder is in the way, or a given archive is none
            of this data set.
    """
    offer = offer_of(name)
    parts = [*offer.annotations, *(offer.pictures if with_pictures else ())]
    given = _by_name(archives, [part for part in parts if isinstance(part, Direct)], offer.name)
    check_writable(root)
    results = []
    for part in parts:
        if isinstance(part, ByHand):
            results.append(Got(part, root / part.place, "by hand"))
        else:
            results.append(_bring(part, root, given, shown, force=force, keeps_archive=keeps_archives))
    return results


def _by_name(archives: Sequence[Path], parts: Sequence[Direct], name: str) -> dict[str, Path]:
    known = [part.file for part in parts]
    for archive in archives:
        if archive.name not in known:
            raise InvalidInput(
                f"{archive.name} is no archive of {name}; known: {', '.join(known) or 'none, it is put in place by hand'}"
            )
        if not archive.is_file():
            raise InvalidInput(f"there is no archive {archive}")
    return {archive.name: archive for archive in archives}


def _bring(
    part: Direct, root: Path, given: Mapping[str, Path], shown: Shown, *, force: bool, keeps_archive: bool
) -> Got:
    there = _standing(part, root)
    if there is not None and not force:
        return Got(part, there, "there")
    place = root / part.folder
    if place.exists() and any(place.iterdir()) and not force:
        raise InvalidInput(
            f"{place} holds other files and lacks {_lacking(part, place)[0]}; move it away, or give --force to replace it"
        )
    archive = given.get(part.file) or root / DOWNLOADS / part.file
    digest = _fetched(part, archive, shown)
    try:
        files = _unpacked(part, archive, place)
    except InvalidInput:
        if part.file not in given:
            archive.unlink()  # it is no good; a whole one that the disk had no room for stays
        raise
    write_whole_text(
        place / RECEIPT, json.dumps({"url": part.url, "file": part.file, "sha256": digest}) + "\n"
    )
    if part.file not in given and not keeps_archive:
        archive.unlink()
    return Got(part, place, "fetched", files, digest)


def _fetched(part: Direct, archive: Path, shown: Shown) -> str:
    """The SHA-256 of the archive, which is fetched unless it is there: given, or left by a run that did not come to its end."""
    if not archive.is_file():
        try:
            with shown(part.file) as progress:
                return download(part.url, archive, sha256=part.sha256, progress=progress)
        except Unreachable as error:
            raise InvalidInput(
                f"{error}; or fetch {part.file} elsewhere (`refseg data list` names further sources) and give it: --archive FILE"
            ) from error
    digest = _sha256(archive)
    if part.sha256 not in (None, digest):
        raise InvalidInput(
            f"{archive} is not the file that was meant: its sha256 is {digest}, not {part.sha256}; remove it"
        )
    return digest


def _unpacked(part: Direct, archive: Path, place: Path) -> int:
    waiting = place.with_name(f"{place.name}.unpacked")
    files = unpack(archive, waiting, inner=part.inner, bounds=Bounds(most_bytes=part.most_bytes))
    lacking = _lacking(part, waiting)
    if lacking or files < part.least_files:
        _remove(waiting)
        told = (
            f"lacks {lacking[0]}" if lacking else f"holds {files} files, and {part.least_files} belong to it"
        )
        raise InvalidInput(
            f"the archive {archive} {told}; nothing was kept of it, get it again from {part.url}"
        )
    if place.exists():
        _remove(place)
    waiting.replace(place)
    return files


def _standing(part: Direct, root: Path) -> Path | None:
    """Where the part stands already, in one of the places that readers look at."""
    places = [root / folder for folder in COCO_FOLDERS] if part is COCO else []
    for place in [*places, root / part.folder]:
        if place.is_dir() and any(place.iterdir()) and not _lacking(part, place):
            return place
    return None


def _lacking(part: Direct, place: Path) -> list[str]:
    return [name for name in part.needs if not (place / name).is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
