"""Videos with phrases as a data set: what Ref-YouTube-VOS, Ref-DAVIS17 and MeViS have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg.data.dataset import (
    Annotation,
    PhraseDataset,
    ReadOptions,
    Timeline,
    annotation_files_below,
    error_context,
    squeeze,
)
from refseg.data.formats.phrase_line import words_of
from refseg.data.formats.records import OnProblem, Record, raise_problem, read_json
from refseg.errors import InvalidInput
from refseg.media.images import image_size, read_stored_image
from refseg.structures import Example, Size


@dataclass(frozen=True, slots=True)
class Expression:
    """One phrase about a video."""

    id: str
    phrase: str  # as stored
    objects: tuple[str, ...]  # of the video; empty where the data set keeps them to itself
    masks: tuple[str, ...] = ()  # names of stored mask series, where they are not the objects


@dataclass(frozen=True, slots=True)
class Video:
    """A video with its expressions, both in the order of the file; its frames sorted by name."""

    name: str
    frames: tuple[str, ...]
    expressions: tuple[Expression, ...]


class VideoPhrases(PhraseDataset):
    """The videos of a split as examples: `item="clip"` one a video, `"object"` one an object, `"phrase"` one an expression.

    Frames are read when an example is asked for: all of them, or those that `example` is told.
    """

    folder: Path  # of the dataset
    split: str
    has_options = has_mask_rules = reads_frames_alone = reads_masks_alone = is_video_set = True

    def __init__(
        self,
        name: str,
        videos: Sequence[Video],
        *,
        split: str,
        options: ReadOptions,
        count: int | None = None,
    ) -> None:
        self.name, self.split, self.options = name, split, options
        self.videos = tuple(videos)
        self._items = [
            (number, rows) for number, video in enumerate(self.videos) for rows in _rows(video, options.item)
        ][:count]

    @abstractmethod
    def frame_path(self, video: Video, frame: str) -> Path:
        """The picture of a frame."""

    @abstractmethod
    def read_masks(self, video: Video, rows: Sequence[int], frames: Sequence[int]) -> Tensor | None:
        """[P, T, H, W] bool of some expressions in some frames; None where the data set keeps them to itself."""

    def label(self, video: Video, expression: Expression) -> int:
        """The place of the expression's category in `categories`; -1 where none is known."""
        del video, expression
        return -1

    def register(self, expression: Expression) -> str | None:
        """The kind of the phrase, for tables by kind."""
        del expression
        return None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return sum(len(rows) for _, rows in self._items)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the phrases."""
        words: set[str] = set()
        for number, rows in self._items:
            for row in rows:
                words.update(words_of(self.videos[number].expressions[row].phrase))
        return tuple(sorted(words))

    def video(self, index: int) -> Video:
        """The video of an example."""
        return self.videos[self._items[index][0]]

    def annotation(self, index: int) -> Annotation:
        """What is known of example `index` without its frames."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number, rows = self._items[index]
        video = self.videos[number]
        said = [video.expressions[row] for row in rows]
        registers = [self.register(expression) for expression in said]
        return Annotation(
            name=video.name,
            paths=tuple(self.frame_path(video, frame) for frame in video.frames),
            frames=video.frames,
            size=None,
            phrases=tuple(self._text(expression.phrase) for expression in said),
            ids=tuple(expression.id for expression in said),
            objects=tuple(",".join(expression.objects) for expression in said),
            no_target=(False,) * len(said),
            labels=tuple(self.label(video, expression) for expression in said),
            registers=tuple(r or "" for r in registers) if any(registers) else None,
        )

    def masks(
        self, index: int, *, rows: Sequence[int] | None = None, frames: Sequence[int] | None = None
    ) -> Tensor | None:
        """[P, T, H, W] bool of example `index` without opening its pictures; None where there are no masks."""
        number, of_example = self._items[index]
        video = self.videos[number]
        asked = of_example if rows is None else [of_example[row] for row in rows]
        chosen = range(len(video.frames)) if frames is None else frames
        with error_context(f"{self.name} video {video.name}"):
            return self.read_masks(video, asked, list(chosen))

    def annotation_files(self) -> Iterator[tuple[str, Path]]:
        """The files that say what is asked of videos, below the folder of the dataset."""
        yield from annotation_files_below(self.folder, self.split)

    def size(self, index: int) -> Size:
        """(height, width) of the frames of example `index`, from the header of the first."""
        video = self.video(index)
        return image_size(self.frame_path(video, video.frames[0]))

    def timeline(self, index: int) -> Timeline:
        """How many frames example `index` has; all of them have masks, or none."""
        return Timeline(len(self.video(index).frames))

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with some frames: places in the sorted list of names; one may stand in it several times.

        Raises:
            InvalidInput: if a frame or mask is missing, damaged or of another size; names the video.
        """
        known = self.annotation(index)
        chosen = list(range(len(known.frames)) if frames is None else frames)
        with error_context(f"{self.name} video {known.name}"):
            pixels = _read_frames([known.paths[number] for number in chosen])
        masks = self.masks(index, frames=chosen)
        if masks is not None and masks.shape[-2:] != pixels.shape[-2:]:
            raise InvalidInput(
                f"{self.name} video {known.name}: its masks are {masks.shape[-1]}x{masks.shape[-2]} and its frames "
                f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels; get frames and masks from one release"
            )
        return Example(
            name=known.name,
            frames=pixels,
            phrases=known.phrases,
            masks=masks,
            labels=torch.tensor(known.labels),
            registers=known.registers,
            ids=known.ids,
            objects=known.objects,
            no_target=torch.tensor(known.no_target),
            frame_names=tuple(known.frames[number] for number in chosen),
        )

    def _text(self, phrase: str) -> str:
        return squeeze(phrase) if self.options.text == "squeezed" else phrase


def _rows(video: Video, item: str) -> list[list[int]]:
    every = list(range(len(video.expressions)))
    if item == "phrase":
        return [[row] for row in every]
    if item == "object":
        groups: dict[tuple[str, ...], list[int]] = {}
        for row in every:
            groups.setdefault(video.expressions[row].objects or (str(row),), []).append(row)
        return list(groups.values())
    return [every] if every else []


def _read_frames(paths: Sequence[Path]) -> Tensor:
    """Frames [T, 3, H, W] of one size; a path that stands there twice is read once."""
    read: dict[Path, Tensor] = {}
    for path in paths:
        if path not in read:
            read[path] = read_stored_image(path)
        if read[path].shape != read[paths[0]].shape:
            raise InvalidInput(
                f"frame {path.name} has another size than {paths[0].name}; get a whole copy of the video"
            )
    return torch.cat([read[path] for path in paths])


def read_expressions(path: Path, on_problem: OnProblem = raise_problem) -> list[Video]:
    """The videos of a `meta_expressions.json`, in the order of the file.

    `obj_id` is a text, a number or a list of numbers; `anno_id` a list. Test sets have neither. A video or an expression that cannot
    be used is told to `on_problem` and left out.

    Raises:
        InvalidInput: naming file, video and field.
    """
    videos = []
    for name, value in Record.of(read_json(path), path.name).mapping("videos").values.items():
        try:
            videos.append(parse_video(name, value, f"{path.name} video {name}", on_problem))
        except InvalidInput as error:
            on_problem(error)
    return videos


def parse_video(name: str, value: Any, where: str, on_problem: OnProblem = raise_problem) -> Video:
    """One video of a `meta_expressions.json`."""
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise InvalidInput(f"{where}: its name is no name of a folder")
    record = Record.of(value, where)
    frames = record.items("frames")
    if not frames or not all(_is_plain(frame) for frame in frames):
        raise record.wrong("frames", "a list of names of pictures without their ending")
    expressions = []
    for number, entry in record.mapping("expressions").values.items():
        try:
            expressions.append(_expression(number, entry, f"{where} expression {number}"))
        except InvalidInput as error:
            on_problem(error)
    return Video(name, tuple(sorted(frames)), tuple(expressions))


def _expression(number: str, value: Any, where: str) -> Expression:
    record = Record.of(value, where)
    return Expression(number, record.text("exp"), _names(record, "obj_id"), _names(record, "anno_id"))


def _names(record: Record, field: str) -> tuple[str, ...]:
    value = record.values.get(field)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(v, str | int) and not isinstance(v, bool) for v in values):
        raise record.wrong(field, "a name, a number, or a list of them")
    return tuple(str(v) for v in values)


def _is_plain(frame: Any) -> bool:
    return isinstance(frame, str) and bool(frame) and "/" not in frame and "\\" not in frame and frame != ".."
