"""A few frames of a video file, without holding the others: windows around an annotated frame, and the count of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from refseg.data.labelled_frames import Window, window_around
from refseg.errors import InvalidInput


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
