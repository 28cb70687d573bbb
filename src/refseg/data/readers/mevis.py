"""MeViS: expressions of motion about one or several objects, their masks as run-length codes in one large file.

`mask_dict.json` (over 400,000 codes) is indexed once; a code is decoded when its frame is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import ReadOptions, error_context
from refseg.data.formats.index import Columns, Table, open_index
from refseg.data.formats.masks import draw_count, draw_union
from refseg.data.formats.records import OnProblem, Record, kind_of, raise_problem, read_json
from refseg.data.readers.video_set import Video, VideoPhrases, read_expressions
from refseg.errors import InvalidInput, UnknownName
from refseg.structures import Size

SPLITS = ("train", "valid_u", "valid", "test")


class MaskSeries:
    """The codes of `mask_dict.json`: one series an annotation, one code or nothing a frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._attach(
            open_index(path.with_name(f".{path.stem}.refseg-index"), [path], lambda: build_masks(path))
        )

    def _attach(self, columns: Columns) -> None:
        self.columns = columns
        self._names = {name: row for row, name in enumerate(columns.facts["names"])}
        self._first, self._size = columns.array("first"), columns.array("size")
        self._codes = columns.texts("code")

    def __getstate__(self) -> tuple[Path, Columns]:
        return self.path, self.columns

    def __setstate__(self, state: tuple[Path, Columns]) -> None:
        self.path = state[0]
        self._attach(state[1])

    def length(self, name: str) -> int:
        """How many frames the series of an annotation has."""
        row = self._row(name)
        return int(self._first[row + 1] - self._first[row])

    def size(self, name: str) -> Size | None:
        """(height, width) of an annotation's masks; None where it has none."""
        height, width = self._size[self._row(name)].tolist()
        return (height, width) if height else None

    def code(self, name: str, frame: int) -> bytes | None:
        """The compressed counts of an annotation in a frame; None where the object is not there.

        Raises:
            InvalidInput: if there is no such annotation or frame.
        """
        row = self._row(name)
        if not 0 <= frame < self.length(name):
            raise InvalidInput(
                f"{self.path.name} {name}: it has {self.length(name)} frames, and frame {frame} was asked for"
            )
        return self._codes[int(self._first[row]) + frame].encode() or None

    def _row(self, name: str) -> int:
        if name not in self._names:
            raise InvalidInput(
                f'"anno_id" is {name}, and {self.path.name} has no such entry; get both files of one release'
            )
        return self._names[name]


def build_masks(path: Path) -> Table:
    """The codes of a `mask_dict.json` as columns.

    Raises:
        InvalidInput: naming file, entry and frame, if a code has not its form.
    """
    values = Record.of(read_json(path), path.name).values
    codes: list[str] = []
    first, sizes = [0], []
    for name, series in values.items():
        if not isinstance(series, list):
            raise InvalidInput(
                f"{path.name} {name}: it is {kind_of(series)}, and must be a list of run-length codes or null"
            )
        sizes.append(_add_series(series, f"{path.name} {name}", codes))
        first.append(len(codes))
    return Table(
        {"names": list(values)},
        {"first": np.array(first, dtype=np.int64), "size": np.array(sizes, dtype=np.int32).reshape(-1, 2)},
        {"code": codes},
    )


def _add_series(series: Sequence[Any], where: str, codes: list[str]) -> Size:
    size: Size = (0, 0)
    for number, code in enumerate(series):
        if code is None:
            codes.append("")
            continue
        record = Record.of(code, f"{where} frame {number}")
        height, width = (int(side) for side in record.numbers("size", 2))
        if size not in ((0, 0), (height, width)):
            raise InvalidInput(
                f"{record.where}: its size is {height}x{width}, and that of an earlier frame {size[0]}x{size[1]}"
            )
        if not (0 < height < 1 << 16 and 0 < width < 1 << 16):
            raise record.wrong("size", "[height, width] of a picture")
        size = (height, width)
        codes.append(record.text("counts"))
    return size


class MeViS(VideoPhrases):
    """The videos of a split in the order of the file; the mask of an expression is the union of its annotations."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        options: ReadOptions,
        count: int | None = None,
        on_problem: OnProblem = raise_problem,
    ) -> None:
        path = folder / split / "meta_expressions.json"
        if not path.is_file():
            raise UnknownName(
                "split of MeViS",
                split,
                [s for s in SPLITS if (folder / s / "meta_expressions.json").is_file()],
            )
        self.folder = folder
        super().__init__(
            "mevis", read_expressions(path, on_problem), split=split, options=options, count=count
        )
        stored = folder / split / "mask_dict.json"
        self.series = MaskSeries(stored) if stored.is_file() else None

    def frame_path(self, video: Video, frame: str) -> Path:
        """The picture of a frame."""
        return self.folder / self.split / "JPEGImages" / video.name / f"{frame}.jpg"

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of the mask file, which an index knows."""
        return (
            {}
            if self.series is None
            else {s["name"]: s["sha256"] for s in self.series.columns.facts["sources"]}
        )

    def read_masks(self, video: Video, rows: Sequence[int], frames: Sequence[int]) -> Tensor | None:
        """[P, T, H, W] bool: the union over the annotations of each expression."""
        return self._drawn(video, rows, frames, torch.bool)

    def read_counts(self, video: Video, rows: Sequence[int], frames: Sequence[int]) -> Tensor | None:
        """[P, T, H, W] uint8, the sum over annotations that the published loader takes for a mask (2 where objects overlap)."""
        return self._drawn(video, rows, frames, torch.uint8)

    def _drawn(
        self, video: Video, rows: Sequence[int], frames: Sequence[int], kind: torch.dtype
    ) -> Tensor | None:
        if self.series is None:
            return None
        size = self._size_of(video, rows)
        masks = torch.empty(len(rows), len(frames), *size, dtype=kind)
        for place, row in enumerate(rows):
            names = video.expressions[row].masks
            for name in names:
                self._check_length(video, name)
            for time, frame in enumerate(frames):
                codes = [code for name in names if (code := self.series.code(name, frame)) is not None]
                with error_context(f"{self.series.path.name} {', '.join(names)} frame {frame}"):
                    if kind == torch.bool:
                        draw_union(codes, size, out=masks[place, time])
                    else:
                        masks[place, time] = draw_count(codes, size)
        return masks

    def _check_length(self, video: Video, name: str) -> None:
        assert self.series is not None
        if self.series.length(name) != len(video.frames):
            raise InvalidInput(
                f"{self.series.path.name} {name}: it has {self.series.length(name)} entries, and the video "
                f"{len(video.frames)} frames; get both files of one release"
            )

    def _size_of(self, video: Video, rows: Sequence[int]) -> Size:
        assert self.series is not None
        sizes = {self.series.size(name) for row in rows for name in video.expressions[row].masks} - {None}
        if len(sizes) > 1:
            raise InvalidInput(f"{self.series.path.name}: the masks of one video have several sizes: {sizes}")
        found = next(iter(sizes), None)
        if found is not None:
            return found
        from refseg.media.images import image_size

        return image_size(self.frame_path(video, video.frames[0]))
