"""What a run of `refseg predict` writes: masks, overlays, videos and one JSON line per answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refseg.errors import InvalidInput
from refseg.files import whole_file, whole_folder, write_whole_text
from refseg.media.drawing import (
    Style,
    choose_style,
    draw_in_style,
    draw_overlays,
    red_overlay,
    save_mask,
    save_picture,
)
from refseg.media.video_stream import FrameStream
from refseg.media.video_write import VideoWriter, video_writer

if TYPE_CHECKING:
    from io import TextIOWrapper

    from refseg.prediction import Prediction


RESULTS = "results.jsonl"


_SECONDS_BETWEEN_SAVES = 2.0


@dataclass(frozen=True)
class AnswerFiles:
    """Where one answer goes."""

    mask: Path  # a PNG file, or a folder of them for a clip
    overlay: Path  # a PNG file, or an MP4 file for a clip

    @property
    def explanation(self) -> Path:
        """The sheet that tells how the answer came about, where it is asked for."""
        return self.mask.with_name(
            f"{self.mask.name.removesuffix('.png').removesuffix('.mask').removesuffix('.masks')}.explain.png"
        )

    @property
    def frames(self) -> Path:
        """The JSON lines of a clip's frames, where they are too many for one line."""
        return self.mask.with_suffix(".frames.jsonl")


def answer_files(folder: Path, name: str, phrase: str, *, is_clip: bool) -> AnswerFiles:
    """The files of the answer to a phrase (its slug) about an input (its name)."""
    start = f"{name}--{phrase}"
    if is_clip:
        return AnswerFiles(folder / f"{start}.masks", folder / f"{start}.overlay.mp4")
    return AnswerFiles(folder / f"{start}.mask.png", folder / f"{start}.overlay.png")


def check_absent(files: Sequence[AnswerFiles]) -> None:
    """Refuses to begin where an answer would replace a file.

    Raises:
        InvalidInput: if one of the files exists.
    """
    kinds = [(entry.mask, entry.overlay, entry.frames, entry.explanation) for entry in files]
    present = [path for paths in kinds for path in paths if path.exists()]
    if present:
        others = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise InvalidInput(
            f"{present[0]}{others} exists already; give --force to replace it, or another --out"
        )


def write_image_answer(
    files: AnswerFiles, pixels: np.ndarray, answer: Prediction, *, is_red: bool = False
) -> None:
    """Mask and overlay of an answer about a picture [H, W, 3]; `is_red` draws it without words, see `red_overlay`."""
    masks = answer.masks.numpy()
    save_mask(masks[0], files.mask)
    if is_red:
        save_picture(Image.fromarray(red_overlay(pixels, masks[0])), files.overlay)
    else:
        save_picture(next(draw_overlays([pixels], masks, answer.phrase)), files.overlay)


def image_record(
    answer: Prediction, files: AnswerFiles, *, title: str, checkpoint: str, seconds: float
) -> dict[str, Any]:
    """What is told of an answer about a picture in a JSON line."""
    found = {"box": answer.box(), "area": answer.area(), "rle": answer.to_rle()}
    size = (answer.masks.shape[-2], answer.masks.shape[-1])
    return record(
        files,
        title=title,
        phrase=answer.phrase,
        score=answer.score,
        found=found,
        size=size,
        checkpoint=checkpoint,
        seconds=seconds,
    )


def record(
    files: AnswerFiles,
    *,
    title: str,
    phrase: str,
    score: float | None,
    found: dict[str, Any],
    size: tuple[int, int],
    checkpoint: str,
    seconds: float,
) -> dict[str, Any]:
    """A JSON line; `found` is what a picture's and a clip's line have each in their own form."""
    start = {"input": title, "phrase": phrase, "score": None if score is None else round(score, 6)}
    return (
        start
        | found
        | {
            "size": list(size),
            "checkpoint": checkpoint,
            "seconds": round(seconds, 4),
            "mask": files.mask.name,
            "overlay": files.overlay.name,
        }
    )


@dataclass
class ResultsFile:
    """The lines of `results.jsonl`, one for each answer in its folder.

    Lines about other answers stay; a line about an answer that is made again takes the place of the earlier one. The file is
    saved now and then, whole each time, so that a killed run loses seconds of lines and never half a line.
    """

    path: Path
    lines: dict[str, str] = field(default_factory=dict)  # by the name of the mask
    saved_at: float = field(default_factory=time.monotonic)
    save_seconds: float = 0.0

    @classmethod
    def open(cls, folder: Path) -> ResultsFile:
        """The results that a folder holds already, if any.

        Raises:
            InvalidInput: if the file there is not one of ours.
        """
        results = cls(folder / RESULTS)
        if not results.path.exists():
            return results
        for number, line in enumerate(results.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                results.lines[str(json.loads(line)["mask"])] = line
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    f"{results.path} line {number} was not written by refseg; move the file away, or give another --out"
                ) from error
        return results

    def add(self, record: dict[str, Any]) -> None:
        """Takes a record in, at the end."""
        self.lines.pop(record["mask"], None)
        self.lines[record["mask"]] = json.dumps(record, ensure_ascii=False)
        # Saving costs what the file is long: twenty times as much time goes into answers as into saves.
        if time.monotonic() - self.saved_at > max(_SECONDS_BETWEEN_SAVES, 20 * self.save_seconds):
            self.save()

    def save(self) -> None:
        """Writes all lines; nothing where there are none."""
        if not self.lines:
            return
        start = time.monotonic()
        write_whole_text(self.path, "".join(f"{line}\n" for line in self.lines.values()))
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - start


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
        for picture, moment in zip(draw_in_style(frames, masks, style), times, strict=True):
            self._video.add(np.asarray(picture), moment)
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


def show_answer(record: dict[str, Any], folder: Path) -> None:
    """One line for people about an answer."""
    score = "" if record["score"] is None else f"  score {record['score']:.2f}"
    print(f"{record['input']}  {record['phrase']!r}{score}  {_where(record)}  {folder / record['overlay']}")


def _where(record: dict[str, Any]) -> str:
    if "frames" in record:
        return f"{record['num_frames']} frames"
    if "boxes" in record:
        count = sum(area > 0 for area in record["areas"])
        return f"in {count} of {len(record['boxes'])} frames" if count else "nothing found"
    if record["box"] is None:
        return "nothing found"
    return "box {}, {} to {}, {}".format(*record["box"])
