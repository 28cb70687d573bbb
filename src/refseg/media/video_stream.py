"""Clips of any length, frame by frame: what is read is handed on and forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.media.images import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES, read_animation, read_image
from refseg.media.video import FOLDER_RATE, average_rate, decoded, list_pictures, opened_video


@dataclass(slots=True, frozen=True)
class TimedFrame:
    """One frame of a clip."""

    pixels: Tensor  # [3, H, W] uint8, upright
    time: Fraction  # seconds at which it is shown, from 0; rising


@dataclass(slots=True, frozen=True)
class FrameStream:
    """A clip that is open: its frames can be taken once, in their order."""

    frames: Iterator[TimedFrame]
    rate: Fraction  # frames a second, on average
    sound: Path | None  # the file with the sound that belongs to the frames, if there is one
    sound_start: Fraction  # where in that file the first frame is shown


@contextmanager
def open_clip(
    paths: Sequence[Path], *, every: int = 1, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Iterator[FrameStream]:
    """The clip in a video file, a folder of frames, an animated picture, or picture files in their order.

    Memory does not depend on the clip's length; the file stays open as long as the block lasts.

    Raises:
        InvalidInput: if there is no such clip, or, as frames are taken, it is damaged or its frames differ in size.
    """
    if every < 1:
        raise InvalidInput(f"every is {every}; it counts from 1")
    path = paths[0]
    is_folder = path.is_dir()
    if len(paths) > 1 or is_folder:
        files = list_pictures(path) if is_folder else list(paths)
        pictures = ((file.name, _of(read_image(file, max_pixels=max_pixels))) for file in files[::every])
        yield _even(pictures, str(path))
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        numbered = enumerate(read_animation(path, max_pixels=max_pixels))
        yield _even(((f"frame {n}", _of(frame)) for n, frame in numbered if n % every == 0), str(path))
    else:
        with opened_video(path, max_pixels) as (container, stream):
            rate = average_rate(stream, every)
            frames = decoded(container, stream, path, every)
            first = next(frames, None)
            if first is None:
                raise InvalidInput(f"{path} holds no frame that can be read")
            start = first[2] or Fraction(0)
            sound = path if container.streams.audio else None
            timed = _rising(_chained(first, frames), rate)
            yield FrameStream(_of_one_size(timed, str(path)), rate, sound, start)


def _of(frame: Tensor) -> np.ndarray:
    return frame[0].permute(1, 2, 0).numpy()


def _even(pictures: Iterable[tuple[str, np.ndarray]], title: str) -> FrameStream:
    timed = ((name, pixels, number / FOLDER_RATE) for number, (name, pixels) in enumerate(pictures))
    return FrameStream(_of_one_size(timed, title), FOLDER_RATE, None, Fraction(0))


def _chained(
    first: tuple[str, np.ndarray, Fraction | None], rest: Iterable[tuple[str, np.ndarray, Fraction | None]]
) -> Iterator[tuple[str, np.ndarray, Fraction | None]]:
    yield first
    yield from rest


def _rising(
    frames: Iterable[tuple[str, np.ndarray, Fraction | None]], rate: Fraction
) -> Iterator[tuple[str, np.ndarray, Fraction]]:
    """Times from 0; a frame whose time is absent or does not rise is shown one frame's time after the one before."""
    start: Fraction | None = None
    before: Fraction | None = None
    for name, pixels, told in frames:
        start = (told or Fraction(0)) if start is None else start
        time = Fraction(0) if told is None else told - start
        if before is not None and (told is None or time <= before):
            time = before + 1 / rate
        before = time
        yield name, pixels, time


def _of_one_size(frames: Iterable[tuple[str, np.ndarray, Fraction]], title: str) -> Iterator[TimedFrame]:
    first, shape = "", None
    for name, pixels, time in frames:
        first, shape = (name, pixels.shape) if shape is None else (first, shape)
        if pixels.shape != shape:
            sizes = [f"{side[1]}x{side[0]}" for side in (shape, pixels.shape)]
            raise InvalidInput(
                f"frames of a clip have one size, and in {title} {first} is {sizes[0]} and {name} is {sizes[1]} pixels"
            )
        yield TimedFrame(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), time)
