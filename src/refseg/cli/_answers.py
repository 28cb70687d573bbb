"""Answers on disk: masks, overlays, and one JSON line each; every file whole or not there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refseg.errors import InvalidInput
from refseg.files import write_whole_text
from refseg.media.drawing import draw_overlays, red_overlay, save_mask, save_picture

if TYPE_CHECKING:
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
