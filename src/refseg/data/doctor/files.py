"""Pictures, frames and masks as files: are they there, whole, and of the right size?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from refseg.data.doctor.findings import DoctorReport, Progress, with_progress
from refseg.errors import InvalidInput
from refseg.media.images import image_size, read_stored_image
from refseg.structures import Size

_JUNK = ("._*", ".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True, slots=True)
class ToSee:
    """A picture to look at."""

    path: Path
    size: Size | None  # that it must have; None where nothing says
    title: str


def check_pictures(
    report: DoctorReport, pictures: Iterable[ToSee], total: int, *, is_quick: bool, watch: Progress
) -> None:
    """Opens every picture; with `is_quick` only its header."""
    for picture in with_progress(pictures, "pictures", total, watch):
        check_picture(report, picture, is_quick=is_quick)


def check_picture(report: DoctorReport, picture: ToSee, *, is_quick: bool) -> Size | None:
    """The size of a picture; None if it cannot be read."""
    report.looked("pictures")
    if not picture.path.is_file():
        report.add("picture-missing", picture.title)
        return None
    try:
        size = _stored_size(picture.path) if is_quick else tuple(read_stored_image(picture.path).shape[-2:])
    except InvalidInput as error:
        report.add("picture-damaged", f"{picture.title}: {_reason(error)}")
        return None
    if picture.size is not None and size != picture.size:
        told = f"{size[1]}x{size[0]} for {picture.size[1]}x{picture.size[0]}"
        report.add("picture-size", f"{picture.title} {told}")
    return size[0], size[1]


def _stored_size(path: Path) -> Size:
    """(height, width) as stored, from the header."""
    from PIL import Image

    image_size(path)  # tells what is wrong with the file in one sentence
    with Image.open(path) as picture:
        return picture.height, picture.width


def find_junk(report: DoctorReport, folder: Path) -> None:
    """Files that desktop systems leave behind, and index files that nobody finished."""
    for pattern in _JUNK:
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and (path.name != "._" or path.stat().st_size < 1 << 20):
                report.add("junk", str(path.relative_to(folder)), path)
    for path in sorted(folder.rglob(".*.refseg-index")):
        if ".part." in path.name or not _opens(path):
            report.add("leftover", str(path.relative_to(folder)), path)


def _opens(path: Path) -> bool:
    from refseg.data.formats.index import Columns

    try:
        Columns(path)
    except InvalidInput:
        return False
    return True


def _reason(error: InvalidInput) -> str:
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text else text[:80]


@dataclass(slots=True)
class Seen:
    """The sizes of pictures that were looked at, so that each is opened once."""

    sizes: dict[Path, Size | None] = field(default_factory=dict)

    def look(self, report: DoctorReport, picture: ToSee, *, is_quick: bool) -> Size | None:
        """As `check_picture`, once a file."""
        if picture.path not in self.sizes:
            self.sizes[picture.path] = check_picture(report, picture, is_quick=is_quick)
        return self.sizes[picture.path]
