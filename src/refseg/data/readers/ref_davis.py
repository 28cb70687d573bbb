"""Ref-DAVIS17 as published: DAVIS 2017 and four lists of expressions, joined as ReferFormer joins them.

Objects of a video are ordered by their number as text (1, 10, 11, 2, ...). Object k of that order has the expressions
4 * k + a with a = 0..3: annotator 1 for the first frame and for the full video, annotator 2 likewise. 255 in a mask is void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg.data.dataset import ReadOptions, TrueObjects, error_context
from refseg.data.formats.records import Record, decode_text, read_json, text_lines
from refseg.data.published import DAVIS_CATEGORIES
from refseg.data.readers.ref_youtube_vos import label_masks, object_number, true_objects
from refseg.data.readers.video_set import Expression, Video, VideoPhrases
from refseg.errors import InvalidInput, UnknownName

ANNOTATORS = (
    "annotator 1, first frame",
    "annotator 1, full video",
    "annotator 2, first frame",
    "annotator 2, full video",
)
"""The four lists, in the order of the expressions' numbers modulo 4."""

_LISTS = (
    ("Davis17_annot1.txt", "utf-8"),
    ("Davis17_annot1_full_video.txt", "utf-8"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
_MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
_SETS = {"train": "train", "valid": "val", "val": "val"}


class RefDavis(VideoPhrases):
    """The videos of a split in the order of its list; registers name the annotator."""

    categories = DAVIS_CATEGORIES

    def __init__(self, folder: Path, *, split: str, options: ReadOptions, count: int | None = None) -> None:
        if split not in _SETS:
            raise UnknownName("split of Ref-DAVIS17", split, ("train", "valid"))
        self.folder = folder
        super().__init__(
            "ref-davis17", davis_videos(folder, split), split=split, options=options, count=count
        )

    def frame_path(self, video: Video, frame: str) -> Path:
        """The picture of a frame."""
        return self.folder / "DAVIS" / "JPEGImages" / "480p" / video.name / f"{frame}.jpg"

    def mask_path(self, video: str, frame: str) -> Path:
        """The label picture of a frame."""
        return self.folder / "DAVIS" / "Annotations_unsupervised" / "480p" / video / f"{frame}.png"

    def read_masks(self, video: Video, rows: Sequence[int], frames: Sequence[int]) -> Tensor | None:
        """[P, T, H, W] bool; void pixels belong to nothing."""
        numbers = [object_number(video, video.expressions[row]) for row in rows]
        return label_masks([self.mask_path(video.name, video.frames[frame]) for frame in frames], numbers)

    def true_objects(self, index: int) -> TrueObjects:
        """What the evaluator scores: objects that appear later than in the first frame are not among them."""
        video = self.video(index)
        with error_context(f"{self.name} video {video.name}"):
            return true_objects([self.mask_path(video.name, frame) for frame in video.frames])

    @cached_property
    def semantics(self) -> Mapping[str, Mapping[str, str]]:
        """The category of every object of every video of DAVIS 2017."""
        return read_semantics(self.folder)

    def label(self, video: Video, expression: Expression) -> int:
        """The place of the object's category in the published list."""
        category = self.semantics.get(video.name, {}).get(expression.objects[0])
        return self.categories.index(category) if category in self.categories else -1

    def register(self, expression: Expression) -> str | None:
        """Whose expression it is."""
        return ANNOTATORS[int(expression.id) % len(ANNOTATORS)]

    def published_form(self) -> dict[str, Any]:
        """The contents of `meta_expressions.json` and `meta.json` that ReferFormer's conversion writes."""
        expressions = {
            video.name: {
                "expressions": {e.id: {"exp": e.phrase, "obj_id": e.objects[0]} for e in video.expressions},
                "frames": list(video.frames),
            }
            for video in self.videos
        }
        objects = {
            video.name: {"objects": {n: {"category": c} for n, c in self.semantics[video.name].items()}}
            for video in self.videos
        }
        return {"meta_expressions": {"videos": expressions}, "meta": {"videos": objects}}


def davis_videos(folder: Path, split: str) -> list[Video]:
    """The videos of a split with their expressions.

    Raises:
        InvalidInput: if a list is missing, or the four do not speak of the same objects.
    """
    names = _read(folder / "DAVIS" / "ImageSets" / "2017" / f"{_SETS[split]}.txt", "utf-8").split()
    lists = [(file, _read_list(folder / "davis_text_annotations" / file, coding)) for file, coding in _LISTS]
    return [Video(name, _frames(folder, name), _expressions(name, lists)) for name in names]


def _expressions(
    video: str, lists: Sequence[tuple[str, Mapping[str, Mapping[str, str]]]]
) -> tuple[Expression, ...]:
    numbers = sorted(lists[0][1].get(video, {}))
    for file, said in lists:
        if sorted(said.get(video, {})) != numbers or not numbers:
            raise InvalidInput(
                f"{file} speaks of the objects {', '.join(sorted(said.get(video, {}))) or '(none)'} of video {video}, and "
                f"{lists[0][0]} of {', '.join(numbers) or '(none)'}; get the four files of one release"
            )
    return tuple(
        Expression(str(len(lists) * k + a), said[video][number], (number,))
        for k, number in enumerate(numbers)
        for a, (_, said) in enumerate(lists)
    )


def _read_list(path: Path, coding: str) -> dict[str, dict[str, str]]:
    """Expressions by video and number of the object."""
    found: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text_lines(_read(path, coding)), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 3 or not words[1].isdecimal():
            raise InvalidInput(
                f'{path.name} line {number}: it is not <video> <number of the object> "<expression>"'
            )
        video = _MISSPELT.get(words[0], words[0])
        found.setdefault(video, {})[words[1]] = " ".join(words[2:])[1:-1]
    return found


def _read(path: Path, coding: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    return decode_text(data) if coding == "utf-8" else data.decode(coding)


def _frames(folder: Path, video: str) -> tuple[str, ...]:
    """Names of the pictures, sorted; of the masks where there are no pictures."""
    for place in ("JPEGImages", "Annotations_unsupervised"):
        names = sorted(path.stem for path in (folder / "DAVIS" / place / "480p" / video).glob("[!.]*.*"))
        if names:
            return tuple(names)
    raise InvalidInput(
        f"there are no pictures of the video {video} in {folder / 'DAVIS' / 'JPEGImages' / '480p'}"
    )


def read_semantics(folder: Path) -> dict[str, dict[str, str]]:
    """Categories by video and object, from `davis_semantics.json`."""
    path = folder / "DAVIS" / "davis_semantics.json"
    file = Record.of(read_json(path), path.name)
    found = {}
    for name in file.values:
        record = file.mapping(name)
        found[name] = {number: record.text(number) for number in record.values}
    return found
