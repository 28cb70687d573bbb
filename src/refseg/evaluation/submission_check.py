"""Looks through a submission before a person uploads it: names, sizes, kinds of picture, what is missing and what is too much.

Servers answer a wrong archive with a bare failure, or with a low score, hours later. Nothing is unpacked.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refseg.data.dataset import PhraseDataset
from refseg.errors import InvalidInput
from refseg.evaluation.scoring import RUNS
from refseg.evaluation.submission import Layout, davis_palette, layout_of

if TYPE_CHECKING:
    from PIL import Image

_MOST_BYTES = 64 << 20  # of one picture; a mask takes some kilobytes
_OURSELVES = ("__MACOSX/", ".DS_Store")  # what archivers of a well-known system add


@dataclass(frozen=True, slots=True)
class Video:
    """What is expected of one video."""

    name: str
    expressions: tuple[str, ...]
    frames: tuple[str, ...]
    size: tuple[int, int] | None = None  # (height, width); None where it is not known without the frames


@dataclass(slots=True)
class SubmissionFindings:
    """What was found wrong, by kind; each kind keeps its count and first examples."""

    most: int = 5
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Notes one finding."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < self.most:
            shown.append(where)

    def lines(self) -> list[str]:
        """One sentence a kind."""
        return [
            f"{kind}: {self.counts[kind]} ({', '.join(shown)}{', ...' if self.counts[kind] > len(shown) else ''})"
            for kind, shown in self.examples.items()
        ]


def expected_videos(dataset: PhraseDataset) -> list[Video]:
    """What a data set's submission must hold, from its annotations; of pictures their headers alone are read.

    Raises:
        InvalidInput: if the data set does not tell its videos, or a frame cannot be read.
    """
    if dataset.is_endless or not len(dataset):
        raise InvalidInput(f"{dataset.name} has no videos to hand in")
    videos: dict[str, Video] = {}
    for index in range(len(dataset)):
        known = dataset.annotation(index)
        earlier = videos[known.name].expressions if known.name in videos else ()
        size = dataset.size(index)
        videos[known.name] = Video(known.name, (*earlier, *known.ids), tuple(known.frames), size)
    return list(videos.values())


def check_submission(path: Path, dataset: str, videos: Sequence[Video]) -> SubmissionFindings:
    """What is wrong with a submission; nothing where `Findings.counts` is empty.

    Raises:
        InvalidInput: if there is no such file, or it cannot be opened at all.
        UnknownName: if the data set has no submissions.
    """
    layout, findings = layout_of(dataset), SubmissionFindings()
    wanted = expected_files(layout, videos)
    found: set[str] = set()
    for name, data in _files(path, layout):
        if any(name.startswith(mark) or name.endswith(mark) for mark in _OURSELVES):
            findings.add("files of the archiving system; pack without them", name)
        elif name not in wanted:
            findings.add(_why_unknown(name, layout, wanted), name)
        elif name in found:
            findings.add("files that stand there twice", name)
        else:
            found.add(name)
            _check_picture(name, data, layout, wanted[name], findings)
    _check_missing(set(wanted) - found, layout, findings)
    return findings


def expected_files(layout: Layout, videos: Sequence[Video]) -> dict[str, Video]:
    """Every file that must be there, with the video it belongs to."""
    files: dict[str, Video] = {}
    for video in videos:
        folders = (
            [f"{layout.top}{video.name}/{expression}" for expression in video.expressions]
            if layout.kind == "masks"
            else [f"{layout.top}anno_{run}/{video.name}" for run in range(RUNS)]
        )
        files |= {f"{folder}/{frame}.png": video for folder in folders for frame in video.frames}
    return files


def _files(path: Path, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Names and contents, one at a time."""
    if not path.exists():
        raise InvalidInput(f"there is no submission {path}")
    if not layout.is_archive:
        yield from _files_of_folder(path)
        return
    if not zipfile.is_zipfile(path):
        raise InvalidInput(f"{path} is no zip archive; the server takes a .zip")
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, _content(archive, entry)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise InvalidInput(f"{path} is damaged: {error}; write it again") from error


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """At most one byte more than a picture may have, so that an entry which claims less cannot fill memory.

    Nothing of an entry that cannot be unpacked, which is a finding about this picture alone.
    """
    try:
        with archive.open(entry) as file:
            return file.read(_MOST_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return b""


def _files_of_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.is_dir():
        raise InvalidInput(f"{path} is a file; this submission is a folder of anno_0 to anno_{RUNS - 1}")
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                yield file.relative_to(path).as_posix(), stream.read(_MOST_BYTES + 1)


def _why_unknown(name: str, layout: Layout, wanted: Mapping[str, Video]) -> str:
    if layout.top and not name.startswith(layout.top):
        return f"files outside the folder {layout.top}, which stands at the top"
    if any(known.endswith(f"/{name}") or name.endswith(f"/{known}") for known in _some(wanted)):
        return f"files in a wrong folder; the first ones expected are {', '.join(_some(wanted, 2))}"
    return "files that are not expected"


def _some(names: Iterable[str], count: int = 1) -> list[str]:
    return [name for name, _ in zip(sorted(names), range(count), strict=False)]


def _check_picture(
    name: str, data: bytes, layout: Layout, video: Video, findings: SubmissionFindings
) -> None:
    from PIL import Image

    if len(data) > _MOST_BYTES:
        findings.add(f"files of more than {_MOST_BYTES >> 20} MiB", name)
        return
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if _check_header(name, picture, layout, video, findings):
                _check_pixels(name, picture, layout, video, findings)
    except (
        Exception
    ) as error:  # whatever a decoder says of a damaged file is a finding, not a failure of ours
        findings.add(f"pictures that cannot be read ({type(error).__name__})", name)


def _check_header(
    name: str, picture: Image.Image, layout: Layout, video: Video, findings: SubmissionFindings
) -> bool:
    """Whether the pixels can be looked at."""
    if picture.format != "PNG":
        findings.add(f"pictures in the form {picture.format}; PNG is expected", name)
        return False
    if video.size is not None and (picture.height, picture.width) != tuple(video.size):
        findings.add(
            f"pictures of another size than their frames (one is {picture.width}x{picture.height}, its frame "
            f"{video.size[1]}x{video.size[0]})",
            name,
        )
        return False
    mode = "L" if layout.kind == "masks" else "P"
    if picture.mode != mode:
        words = {"L": "8-bit grey", "P": "palette"}
        findings.add(f"pictures of mode {picture.mode}; {words[mode]} is expected", name)
        return False
    return True


def _check_pixels(
    name: str, picture: Image.Image, layout: Layout, video: Video, findings: SubmissionFindings
) -> None:
    values = np.unique(np.asarray(picture))
    if layout.kind == "masks":
        odd = values[(values != 0) & (values != 255)]
        if len(odd):
            findings.add("masks with other values than 0 and 255", f"{name} holds {odd[0]}")
        return
    objects = max(1, -(-len(video.expressions) // RUNS))
    if values.max() > objects:
        findings.add("index maps with more objects than the video has", f"{name} holds {values.max()}")
    colours = bytes(picture.getpalette() or [])
    if colours != davis_palette()[: len(colours)]:
        findings.add("index maps in other colours than those of DAVIS", name)


def _check_missing(missing: set[str], layout: Layout, findings: SubmissionFindings) -> None:
    """Whole videos and phrases are told as such, not file by file."""
    depth = layout.top.count("/") + 2  # folders down to the files
    by_folder: dict[str, list[str]] = {}
    for name in sorted(missing):
        by_folder.setdefault("/".join(name.split("/")[:depth]), []).append(name)
    for folder, names in by_folder.items():
        findings.add("folders with missing frames", f"{folder} lacks {len(names)}")
