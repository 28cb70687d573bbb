"""A2D-Sentences: sentences about actors, with masks of three to five frames of each video.

The lists of samples are published as JSON; where they are not there they are made from the raw files in the same order.
Masks and boxes of the `.h5` files are stored transposed, as MATLAB wrote them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import ReadOptions
from refseg.data.formats.records import OnProblem, decode_text, raise_problem, text_lines
from refseg.data.readers.sparse_video_set import LabelledFrames, Sample, read_samples
from refseg.errors import InvalidInput, UnknownName
from refseg.media.video import Window, count_frames, read_places, read_window

_COLUMNS = 9  # video, label, start, end, height, width, frames, annotated frames, subset
_SUBSETS = {"train": "0", "test": "1"}


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A row of `videoset.csv`."""

    name: str
    frames: int
    subset: str  # "0" train, "1" test


@dataclass(frozen=True, slots=True)
class FrameAnnotation:
    """An `.h5` file: the instances of one frame."""

    instances: tuple[int, ...]
    masks: np.ndarray  # [N, H, W] bool
    boxes: np.ndarray  # [N, 4] float64: x1, y1, x2, y2 as stored, counted from 1


class A2D(LabelledFrames):
    """The samples of train or test."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        options: ReadOptions,
        count: int | None = None,
        on_problem: OnProblem = raise_problem,
    ) -> None:
        if split not in _SUBSETS:
            raise UnknownName("split of A2D-Sentences", split, _SUBSETS)
        self.folder = folder
        samples = samples_of(folder, split, on_problem)
        super().__init__("a2d", samples, split=split, options=options, count=count)

    @cached_property
    def listed(self) -> dict[str, ListedVideo]:
        """The videos of `videoset.csv` by name."""
        return read_videoset(self.folder)

    def video_path(self, video: str) -> Path:
        """The video file."""
        return self.folder / "Release" / "clips320H" / f"{video}.mp4"

    def length(self, sample: Sample) -> int:
        """Frames of the video, as `videoset.csv` says; a video that decodes to another number is clipped to that."""
        if sample.video not in self.listed:
            raise InvalidInput(f"videoset.csv has no video {sample.video}")
        return self.listed[sample.video].frames

    def decoded_length(self, video: str) -> int:
        """Frames that the video file decodes to."""
        return count_frames(self.video_path(video))

    def frame_paths(self, sample: Sample, frames: Sequence[int]) -> tuple[Path, ...]:
        """The video file, for each frame."""
        return (self.video_path(sample.video),) * len(frames)

    def read_frames(self, sample: Sample) -> tuple[Tensor, Window]:
        """[T, 3, H, W] uint8 around the annotated frame, clipped to the video as it decodes."""
        return read_window(self.video_path(sample.video), sample.frame - 1, self.options.window)

    def read_places(self, sample: Sample, frames: Sequence[int]) -> Tensor:
        """[T, 3, H, W] uint8; frames beyond the video as it decodes repeat its last."""
        return read_places(self.video_path(sample.video), frames, needed=sample.frame - 1)

    def frame_annotation(self, video: str, frame: int) -> FrameAnnotation:
        """The instances of a frame, counted from 1."""
        return read_h5(instances_folder(self.folder) / video / f"{frame:05d}.h5")

    def mask_path(self, sample: Sample) -> Path:
        """The `.h5` file of the frame."""
        return instances_folder(self.folder) / sample.video / f"{sample.frame:05d}.h5"

    def read_mask(self, sample: Sample) -> Tensor:
        """Bool [H, W]."""
        found = self.frame_annotation(sample.video, sample.frame)
        return torch.from_numpy(np.ascontiguousarray(found.masks[_place(found, sample)]))

    def _stored_box(self, sample: Sample) -> dict[str, list[float]]:
        """`reBBox` as it stands, which is not the box of the mask."""
        found = self.frame_annotation(sample.video, sample.frame)
        x1, y1, x2, y2 = (float(v) for v in found.boxes[_place(found, sample)])
        return {"bbox": [x1, y1, x2 - x1, y2 - y1]}


def _place(found: FrameAnnotation, sample: Sample) -> int:
    """Instances are found by their number, which is no index."""
    if int(sample.instance) not in found.instances:
        raise InvalidInput(f"its .h5 file has the instances {found.instances}, and not {sample.instance}")
    return found.instances.index(int(sample.instance))


def instances_folder(folder: Path) -> Path:
    """Where the `.h5` files are."""
    return folder / "text_annotations" / "a2d_annotation_with_instances"


def samples_of(folder: Path, split: str, on_problem: OnProblem = raise_problem) -> list[Sample]:
    """The samples of a split: of the published list, or made from the raw files."""
    path = folder / f"a2d_sentences_single_frame_{split}_annotations.json"
    if not path.is_file():
        return raw_samples(folder, split, on_problem)
    return read_samples(path, _listed, on_problem)


def _listed(row: Any, where: str) -> Sample:
    if (
        not isinstance(row, list)
        or len(row) != 4
        or not isinstance(row[0], str)
        or not isinstance(row[1], str)
    ):
        raise InvalidInput(f"{where}: it is not [query, video, number of the frame, number of the instance]")
    try:
        frame, instance = int(row[2]), int(row[3])
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: its frame or instance is no whole number") from error
    _check_name(row[1], where)
    return Sample(row[1], frame, row[0], str(instance))


def raw_samples(folder: Path, split: str, on_problem: OnProblem = raise_problem) -> list[Sample]:
    """The samples of a split from the raw files: rows in order, then frames in order that show the instance.

    Queries are in lower case; a row whose instance is no number ("1 (copy)") and videos listed as missed are left out.
    """
    listed = read_videoset(folder)
    missed = set(_read_text(folder / "text_annotations" / "a2d_missed_videos.txt").split())
    shown: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    samples = []
    for video, instance, query in read_queries(folder, on_problem):
        if video in missed or not instance.isdecimal() or listed.get(video) is None:
            continue
        if listed[video].subset != _SUBSETS[split]:
            continue
        if video not in shown:
            shown[video] = _instances_shown(instances_folder(folder) / video, on_problem)
        samples += [
            Sample(video, frame, query.lower(), instance)
            for frame, instances in shown[video]
            if int(instance) in instances
        ]
    return samples


def _instances_shown(folder: Path, on_problem: OnProblem) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers of the annotated frames of a video, and the instances in each."""
    shown = []
    for path in sorted(folder.glob("*.h5")):
        try:
            shown.append((_frame_number(path), read_h5(path).instances))
        except InvalidInput as error:
            on_problem(error)
    return shown


def _frame_number(path: Path) -> int:
    if not path.stem.isdecimal():
        raise InvalidInput(f"{path} is not named by the number of its frame; get a whole copy")
    return int(path.stem)


def read_queries(folder: Path, on_problem: OnProblem = raise_problem) -> list[tuple[str, str, str]]:
    """Rows (video, instance, query) of `a2d_annotation.txt`, as stored.

    Raises:
        InvalidInput: naming the line.
    """
    path = folder / "text_annotations" / "a2d_annotation.txt"
    found = []
    for number, row in enumerate(csv.reader(text_lines(_read_text(path))), start=1):
        if not row or number == 1:  # the first line names the columns
            continue
        try:
            if len(row) < 3:
                raise InvalidInput(f"{path.name} line {number}: it is not video_id,instance_id,query")
            _check_name(row[0], f"{path.name} line {number}")
        except InvalidInput as error:
            on_problem(error)
            continue
        found.append((row[0], row[1].strip(), ",".join(row[2:])))
    return found


def read_videoset(folder: Path) -> dict[str, ListedVideo]:
    """The videos of `videoset.csv`, which has no header.

    Raises:
        InvalidInput: naming the line.
    """
    path = folder / "Release" / "videoset.csv"
    found = {}
    for number, row in enumerate(csv.reader(text_lines(_read_text(path))), start=1):
        if not row:
            continue
        if len(row) < _COLUMNS or not row[6].strip().isdecimal() or row[8].strip() not in _SUBSETS.values():
            raise InvalidInput(
                f"{path.name} line {number}: it has not the {_COLUMNS} columns video, label, start, end, height, width, "
                "frames, annotated frames, subset (0 or 1)"
            )
        found[row[0]] = ListedVideo(row[0], int(row[6]), row[8].strip())
    return found


def read_h5(path: Path) -> FrameAnnotation:
    """The instances of an `.h5` file, turned upright.

    Raises:
        InvalidInput: if it is missing, damaged, or lacks a part; or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InvalidInput("A2D-Sentences needs h5py; install it: pip install h5py") from error
    if not path.is_file():
        raise InvalidInput(f"there is no annotation {path}")
    try:
        with h5py.File(path, "r") as file:
            instances = np.asarray(file["instance"]).reshape(-1)
            masks, boxes = np.asarray(file["reMask"]), np.asarray(file["reBBox"], dtype=np.float64)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InvalidInput(
            f"{path} is damaged, or no annotation of A2D ({str(error)[:120]}); get a whole copy"
        ) from error
    masks = masks[None] if masks.ndim == 2 else masks
    boxes = boxes.reshape(4, -1).T
    if masks.ndim != 3 or not len(instances) == len(masks) == len(boxes):
        raise InvalidInput(
            f"{path}: it has {len(instances)} instances, {len(boxes)} boxes and masks of shape {masks.shape}; get a whole copy"
        )
    return FrameAnnotation(tuple(int(n) for n in instances), masks.transpose(0, 2, 1) > 0, boxes)


def _read_text(path: Path) -> str:
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _check_name(video: str, where: str) -> None:
    if not video or "/" in video or "\\" in video or video in (".", ".."):
        raise InvalidInput(f"{where}: {video!r} is no name of a video")
