"""What public evaluation servers and tools expect to be handed in, written while an evaluation runs.

- Ref-YouTube-VOS: a zip of `Annotations/<video>/<expression>/<frame>.png`, 8-bit grey, 0 and 255, at source size.
- MeViS: a zip of `<video>/<expression>/<frame>.png`, the same pictures without a folder around.
- Ref-DAVIS17: a folder of `anno_<run>/<video>/<frame>.png`, palette pictures whose values are objects; the DAVIS tool reads each
  of the four folders by itself.

A video is written into a working folder beside the result and takes its name there when it is whole, so that a stopped
evaluation goes on with the next one; the result appears when all videos are there.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from refseg.errors import InvalidInput, UnknownName
from refseg.files import whole_file

if TYPE_CHECKING:
    from refseg.structures import Example

Kind = Literal["masks", "maps"]
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same masks give the same archive


@dataclass(frozen=True, slots=True)
class Layout:
    """Where files stand in a submission, and what is in them."""

    kind: Kind  # a mask for every phrase, or an index map for every run
    top: str  # the folder around the videos, with its slash; "" for none
    is_archive: bool


LAYOUTS: Mapping[str, Layout] = {
    "ref-youtube-vos": Layout("masks", "Annotations/", is_archive=True),
    "mevis": Layout("masks", "", is_archive=True),
    "ref-davis17": Layout("maps", "", is_archive=False),
}


def layout_of(dataset: str) -> Layout:
    """The layout that a data set's server expects.

    Raises:
        UnknownName: if none is known.
    """
    if dataset not in LAYOUTS:
        raise UnknownName("data set with submissions", dataset, LAYOUTS)
    return LAYOUTS[dataset]


class Writer:
    """Masks of a data set as a submission; `finish` makes the result."""

    def __init__(self, out: Path, dataset: str, *, resumes: bool = False, joins: bool = False) -> None:
        """
        Args:
            out: the archive (.zip) or folder to make.
            resumes: videos that an earlier, stopped evaluation wrote are kept.
            joins: the first of several processes looks after the folder, and this is another one.

        Raises:
            UnknownName: if no submission is known for the data set.
            InvalidInput: if the name does not fit, or something stands there already.
        """
        self.layout, self.out = layout_of(dataset), out
        if self.layout.is_archive != (out.suffix.lower() == ".zip"):
            wanted = "an archive, named .zip" if self.layout.is_archive else "a folder"
            raise InvalidInput(f"a submission of {dataset} is {wanted}, and {out} was given")
        self._work = out.with_name(f"{out.name}.part")
        self._pieces: dict[
            int, tuple[str, ...]
        ] = {}  # of the video at hand: place of a piece, names of its frames
        if not joins:
            self._begin(resumes=resumes)

    def _begin(self, *, resumes: bool) -> None:
        if self.out.exists():
            raise InvalidInput(f"{self.out} exists; give another name, or delete it")
        if self._work.exists() and not resumes:
            raise InvalidInput(
                f"{self._work} was left by a stopped run; --resume goes on with it, or delete it"
            )
        self._work.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> Path:
        """Where rows are kept until the result is there, if the person names no file for them."""
        return self._work / "rows.jsonl"

    def has(self, video: str) -> bool:
        """Whether a video is whole."""
        return (self._work / "done" / video).is_dir()

    def add(self, example: Example, row: int, masks: Tensor, first: int) -> None:
        """The masks [t, H, W] of one phrase in consecutive frames, the first of which has number `first` in the clip.

        Raises:
            InvalidInput: if the data set does not name its phrases and frames.
        """
        names = self._names_of(example, len(masks))
        if self.layout.kind == "maps":
            self._pieces[first] = names
            return
        if example.ids is None:
            raise InvalidInput(
                f"{example.name} has no numbers of phrases; a submission names its folders by them"
            )
        folder = self._begun(example.name) / _plain(example.ids[row])
        folder.mkdir(exist_ok=True)
        for name, mask in zip(names, masks.numpy(), strict=True):
            write_grey(folder / f"{_plain(name)}.png", mask)

    def end_example(self, video: str, maps: Mapping[int, np.ndarray]) -> None:
        """The video is whole; `maps` are the index maps [T, H, W] of its runs, where objects were merged."""
        if self.layout.kind == "maps":
            names = [name for _, piece in sorted(self._pieces.items()) for name in piece]
            for run, labels in maps.items():
                folder = self._begun(video) / f"anno_{run}"
                folder.mkdir(exist_ok=True)
                for name, label in zip(names, labels, strict=True):
                    write_palette(folder / f"{_plain(name)}.png", label)
        self._pieces = {}
        place = self._work / "done" / video
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        self._begun(video).rename(place)

    def finish(self) -> Path:
        """The finished submission.

        Raises:
            InvalidInput: if no video was written.
        """
        done = self._work / "done"
        videos = sorted(path for path in done.iterdir()) if done.is_dir() else []
        if not videos:
            raise InvalidInput(f"no video was answered; {self.out} was not written")
        if self.layout.is_archive:
            self._pack(videos)
        else:
            self._arrange(videos)
        shutil.rmtree(self._work)
        return self.out

    def _begun(self, video: str) -> Path:
        """The working folder of a video; what a killed run left of it is overwritten file by file."""
        folder = self._work / "begun" / _plain(video)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _names_of(self, example: Example, count: int) -> tuple[str, ...]:
        names = example.frame_names
        if names is None or len(names) != count:
            raise InvalidInput(
                f"{example.name} does not name its frames; a submission names its files by them"
            )
        return names

    def _pack(self, videos: list[Path]) -> None:
        with whole_file(self.out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for video in videos:
                for file in sorted(video.rglob("*.png")):
                    name = f"{self.layout.top}{video.name}/{file.relative_to(video).as_posix()}"
                    archive.writestr(zipfile.ZipInfo(name, _DATE), file.read_bytes())

    def _arrange(self, videos: list[Path]) -> None:
        result = self._work / "result"
        shutil.rmtree(result, ignore_errors=True)
        for video in videos:
            for run in sorted(video.glob("anno_*")):
                (result / run.name).mkdir(parents=True, exist_ok=True)
                shutil.copytree(run, result / run.name / video.name)
        result.rename(self.out)


def _plain(name: str) -> str:
    """A name that stays in its folder; annotations come from elsewhere, and may say anything.

    Raises:
        InvalidInput: if it is none.
    """
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise InvalidInput(
            f"{name!r} cannot be the name of a file or folder in a submission; mend the annotations"
        )
    return name


def write_grey(path: Path, mask: np.ndarray) -> None:
    """A bool mask [H, W] as 8-bit grey PNG, 0 and 255."""
    from PIL import Image

    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_palette(path: Path, labels: np.ndarray) -> None:
    """An index map [H, W] as palette PNG with the colours of DAVIS."""
    from PIL import Image

    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(davis_palette())
    picture.save(path)


def davis_palette() -> bytes:
    """256 colours, three bytes each: the bits of an index are dealt out to red, green and blue, highest first.

    Source: the colour map of PASCAL VOC, which DAVIS took over.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            if index >> bit & 1:
                colours[index, bit % 3] |= 0x80 >> bit // 3
    return colours.tobytes()
