"""Ref-YouTube-VOS, and every data set in its layout, such as Ref-DAVIS17 after ReferFormer's conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import ReadOptions, TrueObjects, error_context
from refseg.data.formats.masks import read_label_png
from refseg.data.formats.records import OnProblem, Record, raise_problem, read_json
from refseg.data.published import YOUTUBE_CATEGORIES
from refseg.data.readers.video_set import Expression, Video, VideoPhrases, read_expressions
from refseg.errors import InvalidInput, UnknownName

SPLITS = ("train", "valid", "test")
VOID = 255  # in masks of DAVIS: belongs to nothing, and does not count


class RefYouTubeVOS(VideoPhrases):
    """`<split>/{JPEGImages,Annotations}/<video>/<frame>` with `meta_expressions/<split>/meta_expressions.json`.

    Videos of train stand in the order of the file, those of valid and test sorted by name, as ReferFormer evaluates.
    """

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        options: ReadOptions,
        name: str = "ref-youtube-vos",
        categories: tuple[str, ...] = YOUTUBE_CATEGORIES,
        is_sorted: bool = True,
        registers: tuple[str, ...] = (),
        count: int | None = None,
        on_problem: OnProblem = raise_problem,
    ) -> None:
        self.folder, self.categories, self.registers = folder, categories, registers
        videos = videos_of(folder, split, on_problem)
        if is_sorted and split != "train":
            videos = sorted(videos, key=lambda video: video.name)
        super().__init__(name, videos, split=split, options=options, count=count)
        self.pictures = self._pictures()
        self._has_masks = (folder / split / "Annotations").is_dir()

    def _pictures(self) -> Path:
        """Test videos of Ref-YouTube-VOS come with the frames of valid."""
        own = self.folder / self.split / "JPEGImages"
        shared = self.folder / "valid" / "JPEGImages"
        return shared if self.split == "test" and not own.is_dir() else own

    def frame_path(self, video: Video, frame: str) -> Path:
        """The picture of a frame."""
        return self.pictures / video.name / f"{frame}.jpg"

    def read_masks(self, video: Video, rows: Sequence[int], frames: Sequence[int]) -> Tensor | None:
        """[P, T, H, W] bool: the pixels that carry the number of the object."""
        if not self._has_masks:
            return None
        numbers = [object_number(video, video.expressions[row]) for row in rows]
        folder = self.folder / self.split / "Annotations" / video.name
        return label_masks([folder / f"{video.frames[frame]}.png" for frame in frames], numbers)

    def true_objects(self, index: int) -> TrueObjects | None:
        """What the evaluator of DAVIS scores, where the data set is Ref-DAVIS17 in this layout; None without masks."""
        if not self._has_masks:
            return None
        video = self.video(index)
        with error_context(f"{self.name} video {video.name}"):
            folder = self.folder / self.split / "Annotations" / video.name
            return true_objects([folder / f"{frame}.png" for frame in video.frames])

    @cached_property
    def meta(self) -> Mapping[str, Mapping[str, str]]:
        """The category of every object of every video; empty where the split has no `meta.json`."""
        path = self.folder / self.split / "meta.json"
        return read_meta(path) if path.is_file() else {}

    def register(self, expression: Expression) -> str | None:
        """Whose expression it is, where the numbers of expressions tell (Ref-DAVIS17)."""
        if not self.registers or not expression.id.isdecimal():
            return None
        return self.registers[int(expression.id) % len(self.registers)]

    def label(self, video: Video, expression: Expression) -> int:
        """The place of the object's category in the published list."""
        if not expression.objects:
            return -1
        category = self.meta.get(video.name, {}).get(expression.objects[0])
        return self.categories.index(category) if category in self.categories else -1


def videos_of(folder: Path, split: str, on_problem: OnProblem = raise_problem) -> list[Video]:
    """The videos of a split, in the order of the file; valid without the videos that belong to test.

    Raises:
        UnknownName: if the split is not there.
    """
    path = folder / "meta_expressions" / split / "meta_expressions.json"
    if not path.is_file():
        there = [p.parent.name for p in folder.glob("meta_expressions/*/meta_expressions.json")]
        raise UnknownName(f"split of {folder.name}", split, there)
    videos = read_expressions(path, on_problem)
    test = folder / "meta_expressions" / "test" / "meta_expressions.json"
    if split == "valid" and test.is_file():
        held_out = set(Record.of(read_json(test), test.name).mapping("videos").values)
        return [video for video in videos if video.name not in held_out]
    return videos


def read_meta(path: Path) -> dict[str, dict[str, str]]:
    """Categories by video and object, from a `meta.json`.

    Raises:
        InvalidInput: naming file, video and field.
    """
    found = {}
    for name, value in Record.of(read_json(path), path.name).mapping("videos").values.items():
        record = Record.of(value, f"{path.name} video {name}").mapping("objects")
        found[name] = {number: record.mapping(number).text("category") for number in record.values}
    return found


def object_number(video: Video, expression: Expression) -> int:
    """The value that masks give the object of an expression.

    Raises:
        InvalidInput: if it is none.
    """
    number = expression.objects[0] if len(expression.objects) == 1 else ""
    if not number.isdecimal() or not 1 <= int(number) <= 254:
        raise InvalidInput(
            f'expression {expression.id}: "obj_id" is {", ".join(expression.objects) or "missing"}, and must be one '
            "number from 1 to 254"
        )
    return int(number)


def label_masks(paths: Sequence[Path], numbers: Sequence[int]) -> Tensor:
    """[P, T, H, W] bool: where the label pictures of T frames hold each of P numbers.

    Raises:
        InvalidInput: if one cannot be read, or they differ in size.
    """
    maps: dict[Path, np.ndarray] = {}
    for path in paths:
        maps[path] = maps[path] if path in maps else read_label_png(path)
        if maps[path].shape != maps[paths[0]].shape:
            raise InvalidInput(
                f"mask {path.name} has another size than {paths[0].name}; get a whole copy of the video"
            )
    stacked = torch.from_numpy(np.stack([maps[path] for path in paths]))
    return stacked[None] == torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None]


def true_objects(paths: Sequence[Path]) -> TrueObjects:
    """The objects in label pictures of T frames: objects that appear later than in the first frame are not among them.

    Raises:
        InvalidInput: if one cannot be read, or they differ in size.
    """
    first = read_label_png(paths[0])
    numbers = range(1, int(max((n for n in np.unique(first).tolist() if n != VOID), default=0)) + 1)
    masks = label_masks(paths, [*numbers, VOID])
    return TrueObjects(masks[:-1], masks[-1])
