"""Clips as files, read whole: videos, folders of frames, animations.

The length of what is read whole is bounded, and what does not fit is refused before memory is taken; `video_stream` reads
clips of any length, frame by frame. Rotation metadata is applied; the frames of a video keep their times, whatever the
rate does.

A few frames of a video file, without holding the others: windows around an annotated frame, and the count of frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.media.images import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES, read_animation

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


_SUFFIXES = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .mjpeg .y4m"


VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())


DEFAULT_MAX_FRAMES = 128
"""Frames of one clip that are read without being told to read more."""


MAX_CLIP_BYTES = 2 << 30
"""Bytes of one clip's frames that are held at once; masks on their way to the source's size need up to twice as much."""


FOLDER_RATE = Fraction(10)
"""Frames a second of clips that know none: folders, animations."""


@dataclass(slots=True, frozen=True)
class StoredClip:
    """A clip as it was read."""

    frames: Tensor  # [T, 3, H, W] uint8
    times: tuple[Fraction, ...]  # seconds at which each frame is shown, from 0; rising
    rate: Fraction  # frames a second, on average


def read_clip(
    path: str | Path,
    *,
    every: int = 1,
    max_frames: int = DEFAULT_MAX_FRAMES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> StoredClip:
    """The clip in a video file, a folder of frames (in the natural order of their names), or an animated picture.

    Arguments:
        every: take each `every`-th frame, from the first.
        max_frames: a clip that has more after that is refused.

    Raises:
        InvalidInput: if there is no such clip, it is damaged, its frames differ in size, or it is too long or large.
    """
    if every < 1 or max_frames < 1:
        raise InvalidInput(f"every is {every} and max_frames is {max_frames}; both count from 1")
    path = Path(path)
    if path.is_dir():
        return join_pictures(
            list_pictures(path)[::every], str(path), max_frames=max_frames, max_pixels=max_pixels
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_animation(path, every, max_frames, max_pixels)
    return _read_video(path, every, max_frames, max_pixels)


def list_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder in the natural order of their names: 2.png before 10.png.

    Raises:
        InvalidInput: if the folder cannot be read or holds none.
    """
    try:
        found = [
            p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
        ]
    except PermissionError as error:
        raise InvalidInput(f"folder {folder} may not be read by this user; change its permissions") from error
    if not found:
        raise InvalidInput(f"folder {folder} holds no pictures; expected files such as .jpg or .png in it")
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts names by their numbers' values; equal numbers by how they are written."""
    parts = re.split(r"(\d+)", name)
    numbers = tuple((int(part), part) if part.isdecimal() else (-1, part.lower()) for part in parts)
    return (*numbers, (-1, name))


def join_pictures(
    paths: Sequence[Path],
    title: str,
    *,
    max_frames: int = DEFAULT_MAX_FRAMES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> StoredClip:
    """Picture files of one size as one clip; `title` names it in messages.

    Raises:
        InvalidInput: if there are too many, one cannot be read, or their sizes differ.
    """
    from refseg.media.images import read_image

    _check_length(title, len(paths), 1, max_frames)
    pictures = (_named(read_image(path, max_pixels=max_pixels), path) for path in paths)
    return _evenly_timed(_gather(pictures, title, len(paths)))


def _named(frame: Tensor, path: Path) -> tuple[str, np.ndarray]:
    return path.name, frame[0].permute(1, 2, 0).numpy()


def _read_animation(path: Path, every: int, max_frames: int, max_pixels: int) -> StoredClip:
    # One more than allowed is read, so that "too long" is known without reading a long animation to its end.
    wanted = max_frames * every + 1
    frames = (
        (f"frame {number}", frame[0].permute(1, 2, 0).numpy())
        for number, frame in enumerate(read_animation(path, max_pixels=max_pixels, most=wanted))
        if number % every == 0
    )
    gathered = _gather(frames, str(path), max_frames + 1)
    _check_length(str(path), len(gathered), 1, max_frames)
    return _evenly_timed(gathered)


def _evenly_timed(frames: Tensor) -> StoredClip:
    return StoredClip(frames, tuple(number / FOLDER_RATE for number in range(len(frames))), FOLDER_RATE)


def _read_video(path: Path, every: int, max_frames: int, max_pixels: int) -> StoredClip:
    with opened_video(path, max_pixels) as (container, stream):
        expected = _expected_frames(stream)
        _check_length(str(path), -(-expected // every), every, max_frames)
        times: list[Fraction | None] = []
        pictures = _timed(decoded(container, stream, path, every), times)
        frames = _gather(_bounded(pictures, path, every, max_frames), str(path), max_frames)
        rate = average_rate(stream, every)
    return StoredClip(frames, _rising(times, rate), rate)


@contextmanager
def opened_video(path: Path, max_pixels: int) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """A video file and its first video track, open for as long as the block lasts.

    Raises:
        InvalidInput: if it cannot be read or decoded, here or inside the block, or its frames are too large.
    """
    import av

    if not path.exists():
        raise InvalidInput(f"there is no file {path}")
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            _check_pixels(path, stream, max_pixels)
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise InvalidInput(f"{path} may not be read by this user; change its permissions") from error
        raise InvalidInput(
            f"{path} is no video that can be read, or is damaged ({error.strerror}); give MP4, MOV, MKV, WebM or AVI"
        ) from error


def average_rate(stream: VideoStream, every: int) -> Fraction:
    """Frames a second of a track of which each `every`-th frame is taken; that of folders where the file tells none."""
    return Fraction(stream.average_rate or FOLDER_RATE) / every


def _timed(
    frames: Iterable[tuple[str, np.ndarray, Fraction | None]], times: list[Fraction | None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels; the times are put into `times`."""
    for name, pixels, time in frames:
        times.append(time)
        yield name, pixels


def _video_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise InvalidInput(f"{path} has no video track")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _check_pixels(path: Path, stream: VideoStream, max_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise InvalidInput(
            f"{path} has frames of {width}x{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}; "
            "if you trust it, raise the limit (--max-pixels)"
        )


def _expected_frames(stream: VideoStream) -> int:
    """How many frames the header promises; 0 where it promises nothing."""
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.time_base and stream.average_rate:
        return int(stream.duration * stream.time_base * stream.average_rate)
    return 0


def _check_length(title: str, count: int, every: int, max_frames: int) -> None:
    if count > max_frames:
        thinner = every * -(-count // max_frames)
        raise InvalidInput(
            f"{title} has about {count} frames to read, more than the limit of {max_frames}; take every {thinner}th of its "
            f"frames (--every {thinner}), or raise the limit if there is memory for it (--max-frames)"
        )


def decoded(
    container: av.container.InputContainer, stream: VideoStream, path: Path, every: int
) -> Iterator[tuple[str, np.ndarray, Fraction | None]]:
    """The frames taken, upright, one by one: what to call each, its pixels [H, W, 3], its time where the file tells it.

    Raises:
        InvalidInput: at the end of a file that is cut short.
    """
    number, is_cut, time = 0, False, None
    for packet in container.demux(stream):
        is_cut = is_cut or packet.is_corrupt
        for frame in packet.decode():
            unit = frame.time_base
            time = None if frame.pts is None or unit is None else frame.pts * unit
            if number % every == 0:
                yield f"frame {number}", upright(frame), time
            number += 1
    if is_cut and number < stream.frames:
        raise InvalidInput(
            f"{path} is cut short: {stream.frames} frames are promised, {number} can be read; get a whole copy"
        )
    _must_reach_its_end(path, stream, time)


def _must_reach_its_end(path: Path, stream: VideoStream, last: Fraction | None) -> None:
    """Refuses a track of a Matroska file that ends long before the length its header tells.

    Such files mark no packet as damaged where they are cut; a second is allowed for a last frame that is shown long.
    """
    told = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if told is None or last is None:
        return
    promised = 3600 * int(told[1]) + 60 * int(told[2]) + Fraction(told[3])
    if last + max(Fraction(1), 2 / average_rate(stream, 1)) < promised:
        raise InvalidInput(
            f"{path} is cut short: {float(promised):.1f} seconds are promised, {float(last):.1f} can be read; get a whole copy"
        )


def upright(frame: VideoFrame) -> np.ndarray:
    """RGB [H, W, 3] of a decoded frame, turned as its rotation metadata says (degrees counter-clockwise)."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, k=round(frame.rotation / 90) % 4)


def _bounded(
    pictures: Iterator[tuple[str, np.ndarray]], path: Path, every: int, max_frames: int
) -> Iterator[tuple[str, np.ndarray]]:
    # The header may promise less than there is.
    for number, named in enumerate(pictures):
        if number >= max_frames:
            _check_length(str(path), number + 1, every, max_frames)
        yield named


def _gather(pictures: Iterable[tuple[str, np.ndarray]], title: str, most: int) -> Tensor:
    """Pictures [H, W, 3] of one size as [T, 3, H, W], in one piece of memory; `most` bounds their number."""
    store: np.ndarray | None = None
    first, count = "", 0
    for name, pixels in pictures:
        if store is None:
            first, store = name, _room_for(pixels, most)
        if pixels.shape != store.shape[1:]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (store.shape[1:], pixels.shape)]
            raise InvalidInput(
                f"frames of a clip have one size, and in {title} {first} is {sizes[0]} and {name} is {sizes[1]} pixels"
            )
        if count == len(store):
            raise InvalidInput(
                f"{title} has more than {count} frames of {pixels.shape[1]}x{pixels.shape[0]} pixels, over "
                f"{MAX_CLIP_BYTES >> 30} GiB; take fewer of them (--every), or make them smaller"
            )
        store[count] = pixels
        count += 1
    if store is None:
        raise InvalidInput(f"{title} holds no frame that can be read")
    return torch.from_numpy(store[:count]).permute(0, 3, 1, 2)


def _room_for(pixels: np.ndarray, most: int) -> np.ndarray:
    # Memory is taken by the system only as frames are written into it.
    rows = min(most, max(1, MAX_CLIP_BYTES // pixels.nbytes))
    return np.empty((rows, *pixels.shape), dtype=np.uint8)


def _rising(times: Sequence[Fraction | None], rate: Fraction) -> tuple[Fraction, ...]:
    """Times from 0; even ones where a file lacks some or lets them fall."""
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(later <= earlier for earlier, later in pairwise(known)):
        return tuple(number / rate for number in range(len(times)))
    return tuple(time - known[0] for time in known)


def count_frames(path: Path) -> int:
    """How many frames a video file decodes to, which its header need not know.

    Raises:
        InvalidInput: if it is missing or no video.
    """
    return sum(1 for _ in _decoded(path))


def read_window(path: Path, place: int, size: int) -> tuple[Tensor, Window]:
    """`size` frames [T, 3, H, W] uint8 around the frame `place`, counted from 0, and which these are.

    Frames beyond the ends repeat the first and the last.

    Raises:
        InvalidInput: if the file is missing or no video, or it ends before `place`.
    """
    first, last = place - size // 2, place - size // 2 + size - 1
    kept: dict[int, Tensor] = {}
    length = 0
    for number, frame in enumerate(_decoded(path)):
        length = number + 1
        if number >= first:
            kept[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
        if number >= last:
            break
    # A video that goes on is longer than the window, so that its end clips nothing.
    window = window_around(place, size, length)
    return torch.stack([kept[number] for number in window.frames]), window


def read_places(path: Path, places: Sequence[int], *, needed: int) -> Tensor:
    """Frames [T, 3, H, W] uint8 of a video file, counted from 0, in this order; one may be asked for several times.

    Places beyond the end repeat the last frame: files may decode to fewer frames than their annotations count.

    Raises:
        InvalidInput: if the file is missing or no video, or it ends before `needed`, the annotated frame.
    """
    wanted, kept, last = set(places), {}, -1
    for number, frame in enumerate(_decoded(path)):
        last = number
        if number in wanted:
            kept[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
        if number >= max(wanted):
            break
    window_around(needed, 1, last + 1)  # refuses a video that ends too early
    if last < max(wanted) and last not in kept:
        kept[last] = read_window(path, last, 1)[0][0]
    return torch.stack([kept[min(place, last)] for place in places])


def _decoded(path: Path) -> Iterator:  # type: ignore[type-arg]
    import av

    if not path.is_file():
        raise InvalidInput(f"there is no video {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InvalidInput(f"{path} has no video track")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)
    except av.FFmpegError as error:
        raise InvalidInput(
            f"{path} is no video that can be read, or is damaged ({error.strerror})"
        ) from error


@dataclass(frozen=True, slots=True)
class Window:
    """Frames around an annotated one."""

    frames: tuple[int, ...]  # places in the video, counted from 0; edge frames repeat
    target: int  # the first place in `frames` where the annotated frame stands


def window_around(place: int, size: int, length: int) -> Window:
    """`size` frames around `place` in a video of `length` frames, all counted from 0.

    Raises:
        InvalidInput: if the video ends before `place`.
    """
    if not 0 <= place < length:
        raise InvalidInput(
            f"frame {place + 1} is annotated, and the video has {length} frames; get the whole video"
        )
    start = place - size // 2
    frames = tuple(min(max(number, 0), length - 1) for number in range(start, start + size))
    return Window(frames, frames.index(place))
