"""Ref-YouTube-VOS in one JSON file a split, as VLFormer trains on it: one record an expression, masks and boxes inside.

The file has videos, annotations (one object in all frames of its video, null where it is absent) and expressions. Frames lie
below `<split>/JPEGImages` beside the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import Annotation, PhraseDataset, error_context
from refseg.data.formats.masks import LEAST_NUMBERS, Part, check_parts, draw_union
from refseg.data.formats.records import Record, read_json_object
from refseg.errors import InvalidInput
from refseg.media.images import read_stored_image
from refseg.structures import Example, Size

PICTURES = "JPEGImages"


@dataclass(frozen=True, slots=True)
class StoredMask:
    """The object in one frame, as stored."""

    box: tuple[float, ...]  # x, y, width, height in pixels
    parts: tuple[Part, ...]
    is_bare: bool  # stored as one run-length code, not as a list of parts


@dataclass(frozen=True, slots=True)
class VideoSentence:
    """One expression about one object of a video."""

    id: int
    number: str  # of the expression among those of its video
    phrase: str
    video: int
    name: str  # of the video
    files: tuple[str, ...]  # of the frames that are kept
    size: Size
    object: int
    category: int  # its place among the categories, by number
    is_crowd: bool
    masks: tuple[StoredMask, ...]  # one a frame; empty where the split keeps them to itself


def read_video_sentences(path: Path, *, annotated: bool) -> list[VideoSentence]:
    """The records of a file, in the order of its expressions.

    Args:
        annotated: whether only frames with a box and a mask are kept, as for training; else all are, and no masks.

    Raises:
        InvalidInput: naming file, record and field, if something in it cannot be used.
    """
    file = read_json_object(path)
    videos = _by_id(file, "videos")
    annotations = _by_id(file, "annotations") if annotated else {}
    ranks = {number: rank for rank, number in enumerate(sorted(_by_id(file, "categories")))}
    said = [
        Record.of(item, f"{path.name} expressions {n}") for n, item in enumerate(file.items("expressions"))
    ]
    return [_sentence(record, videos, annotations, ranks, annotated=annotated) for record in said]


class VideoSentences(PhraseDataset):
    """The expressions of a split as examples, one clip each; frames are read when they are asked for.

    Args:
        path: the JSON file; its name without the ending is the split.
        pictures: the folder of the frames; None is `<split>/JPEGImages` beside the file.
    """

    reads_frames_alone = reads_masks_alone = True

    def __init__(self, path: Path, *, pictures: Path | None = None, count: int | None = None) -> None:
        self.path = path
        self.name, self.split = path.absolute().parent.name, path.stem
        self.pictures = pictures or path.parent / self.split / PICTURES
        self.has_masks = "train" in self.split
        records = read_video_sentences(path, annotated=self.has_masks)[:count]
        self.records = [record for record in records if record.files]
        if not self.records:
            raise InvalidInput(f"{path} has no expression with frames; get a whole copy of it")
        self.num_left_out = len(records) - len(self.records)
        if self.num_left_out:  # as the published reader does, which says nothing
            warnings.warn(
                f"{self.num_left_out} of {len(records)} expressions of {path.name} are left out: their object is in no frame",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return len(self.records)

    def annotation(self, index: int) -> Annotation:
        """What is known of example `index` without its frames."""
        record = self.records[index]
        return Annotation(
            name=record.name,
            paths=tuple(self.pictures / file for file in record.files),
            frames=tuple(Path(file).stem for file in record.files),
            size=record.size,
            phrases=(record.phrase,),
            ids=(record.number,),
            objects=(str(record.object),),
            no_target=(False,),
            labels=(record.category,),
        )

    def annotation_files(self) -> Iterator[tuple[str, Path]]:
        """The JSON file."""
        yield self.path.name, self.path

    def masks(
        self, index: int, *, rows: Sequence[int] | None = None, frames: Sequence[int] | None = None
    ) -> Tensor | None:
        """[1, T, H, W] bool of some frames; None where the split keeps masks to itself."""
        record = self.records[index]
        if not self.has_masks:
            return None
        chosen = range(len(record.files)) if frames is None else frames
        drawn = torch.stack([draw_union(record.masks[frame].parts, record.size) for frame in chosen])[None]
        return drawn if rows is None else drawn[list(rows)]

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with these frames, in this order, repeats included.

        Raises:
            InvalidInput: if a frame is missing, damaged or of another size; names the expression.
        """
        record = self.records[index]
        frames = range(len(record.files)) if frames is None else frames
        with error_context(f"{self.name} expression {record.id}"):
            pixels = torch.cat([self._frame(record, frame) for frame in frames])
        return Example(
            name=record.name,
            frames=pixels,
            phrases=(record.phrase,),
            masks=self.masks(index, frames=frames),
            labels=torch.tensor([record.category]),
            ids=(record.number,),
            objects=(str(record.object),),
            no_target=torch.tensor([False]),
            frame_names=tuple(Path(record.files[frame]).stem for frame in frames),
        )

    def _frame(self, record: VideoSentence, number: int) -> Tensor:
        pixels = read_stored_image(self.pictures / record.files[number])
        if tuple(pixels.shape[-2:]) != record.size:
            height, width = record.size
            raise InvalidInput(
                f"frame {record.files[number]} is {pixels.shape[-1]}x{pixels.shape[-2]} pixels, and was annotated at "
                f"{width}x{height}; get frames and annotations of one release"
            )
        return pixels


def _sentence(
    said: Record,
    videos: dict[int, Record],
    annotations: dict[int, Record],
    ranks: dict[int, int],
    *,
    annotated: bool,
) -> VideoSentence:
    video = _find_named(said, "vid_id", videos)
    files, size = _files(video), (video.whole("height", least=1), video.whole("width", least=1))
    owner = _find_named(said, "anno_id", annotations) if annotated else None
    stored = [] if owner is None else _masks(owner, len(files), size)
    kept = (
        [frame for frame, mask in enumerate(stored) if mask is not None] if annotated else range(len(files))
    )
    return VideoSentence(
        id=said.whole("id"),
        number=_text(said, "exp_id"),
        phrase=said.text("expression"),
        video=video.whole("id"),
        name=video.text("name"),
        files=tuple(files[frame] for frame in kept),
        size=size,
        object=said.whole("anno_id"),
        category=-1 if owner is None else ranks.get(owner.whole("category_id"), -1),
        is_crowd=owner is not None and bool(owner.values.get("iscrowd", 0)),
        masks=tuple(mask for mask in stored if mask is not None),
    )


def _masks(owner: Record, count: int, size: Size) -> list[StoredMask | None]:
    boxes, codes = owner.items("bboxes"), owner.items("segmentations")
    if len(boxes) != count or len(codes) != count:
        raise owner.wrong("segmentations", f"{count} entries, as many as the video has frames, like bboxes")
    return [_mask(owner, box, code, size) for box, code in zip(boxes, codes, strict=True)]


def _mask(owner: Record, box: Any, code: Any, size: Size) -> StoredMask | None:
    """None where the object is absent, or has no polygon of three points and more."""
    if not box or not code:
        return None
    try:
        parts = check_parts(code, size)
    except InvalidInput as error:
        raise InvalidInput(f"{owner.where}: a segmentation cannot be used: {error}") from error
    kept = tuple(p for p in parts if isinstance(p, bytes) or (len(p) >= LEAST_NUMBERS and len(p) % 2 == 0))
    numbers = Record({"box": box}, owner.where).numbers("box", 4)
    return StoredMask(tuple(numbers), kept, isinstance(code, dict)) if kept else None


def stored_segmentation(mask: StoredMask, size: Size) -> Any:
    """A segmentation in the form in which COCO stores it; run-length codes are compressed."""
    plain = [
        {"size": list(size), "counts": part.decode("ascii")}
        if isinstance(part, bytes)
        else np.asarray(part).tolist()
        for part in mask.parts
    ]
    return plain[0] if mask.is_bare else plain


def _files(video: Record) -> list[str]:
    files = video.items("file_names")
    for file in files:
        if not isinstance(file, str) or not file or ".." in Path(file).parts or Path(file).is_absolute():
            raise video.wrong("file_names", "names of pictures below the folder of frames")
    return list(files)


def _find_named(record: Record, field: str, among: dict[int, Record]) -> Record:
    number = record.whole(field)
    if number not in among:
        raise record.wrong(field, "the id of a record that the file has")
    return among[number]


def _by_id(file: Record, field: str) -> dict[int, Record]:
    records = [Record.of(item, f"{file.where} {field} {n}") for n, item in enumerate(file.items(field))]
    return {record.whole("id"): record for record in records}


def _text(record: Record, field: str) -> str:
    value = record.values.get(field)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else record.text(field)
