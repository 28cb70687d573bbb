"""Answers about clips, written while they are made: masks, an overlay video with sound, a line for each frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg.cli._answers import AnswerFiles
from refseg.files import whole_file, whole_folder
from refseg.media.drawing import Style, choose_style, draw_in_style, save_mask
from refseg.media.video_stream import FrameStream
from refseg.media.video_write import VideoWriter, video_writer

if TYPE_CHECKING:
    from io import TextIOWrapper

    from refseg.prediction import Prediction


@contextmanager
def clip_answer(files: AnswerFiles, clip: FrameStream) -> Iterator[ClipAnswer]:
    """The answer to one phrase about a clip; its files are whole when the block ends well, and else not there."""
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(files.mask))
        video = stack.enter_context(
            video_writer(files.overlay, clip.rate, sound=clip.sound, sound_start=clip.sound_start)
        )
        yield ClipAnswer(files, folder, video, stack)
        files.frames.unlink(
            missing_ok=True
        )  # of an earlier run; written anew below where there are several parts


class ClipAnswer:
    """Parts of an answer, put to disk as they come; of a clip of several parts nothing is held that grows with it."""

    def __init__(self, files: AnswerFiles, folder: Path, video: VideoWriter, stack: ExitStack) -> None:
        self._files, self._folder, self._video, self._stack = files, folder, video, stack
        self._style: Style | None = None
        self._entries: list[dict[str, Any]] = []  # of the first part
        self._lines: TextIOWrapper | None = None  # of all parts, where there are several
        self._scores: list[tuple[float, int]] = []
        self.num_frames = 0

    def add(
        self, frames: Sequence[np.ndarray], times: Sequence[Fraction], answer: Prediction, *, is_last: bool
    ) -> None:
        """The next frames [H, W, 3], when they are shown, and the answer about them."""
        masks = answer.masks.numpy()
        for number, mask in enumerate(masks, start=self.num_frames):
            save_mask(mask, self._folder / f"{number:05d}.png")
        style = self._choose_style(frames, masks, answer.phrase, is_whole=is_last and not self.num_frames)
        for picture, time in zip(draw_in_style(frames, masks, style), times, strict=True):
            self._video.add(np.asarray(picture), time)
        if answer.score is not None:
            self._scores.append((answer.score, len(masks)))
        self._tell(times, answer)
        self.num_frames += len(masks)

    def score(self) -> float | None:
        """The mean of the windows' scores, each with the weight of its frames."""
        if not self._scores:
            return None
        return sum(score * count for score, count in self._scores) / sum(count for _, count in self._scores)

    def found(self) -> dict[str, Any]:
        """What the clip's line tells of its frames: lists, or the name of the file that holds them."""
        if self._lines is not None:
            return {"frames": self._files.frames.name, "num_frames": self.num_frames}
        keys = {"time": "times", "box": "boxes", "area": "areas", "rle": "rles"}
        return {plural: [entry[key] for entry in self._entries] for key, plural in keys.items()}

    def _choose_style(
        self, frames: Sequence[np.ndarray], masks: np.ndarray, phrase: str, *, is_whole: bool
    ) -> Style:
        """The style of the first part that shows something stays."""
        if self._style is not None:
            return self._style
        is_empty = not masks.any()
        style = choose_style(frames, masks, f"{phrase}: nothing found" if is_empty and is_whole else phrase)
        self._style = None if is_empty else style
        return style

    def _tell(self, times: Sequence[Fraction], answer: Prediction) -> None:
        parts = zip(times, answer.boxes(), answer.areas(), answer.to_rles(), strict=True)
        entries = [
            {"time": round(float(time), 6), "box": box, "area": area, "rle": rle}
            for time, box, area, rle in parts
        ]
        if not self.num_frames:
            self._entries = entries
            return
        if self._lines is None:
            path = self._stack.enter_context(whole_file(self._files.frames))
            self._lines = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            self._write(self._entries)
        self._write(entries)

    def _write(self, entries: Sequence[dict[str, Any]]) -> None:
        assert self._lines is not None
        self._lines.writelines(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
