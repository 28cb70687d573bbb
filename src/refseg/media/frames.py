"""Frames in every form that people hold them, as one tensor [T, 3, H, W] uint8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.media.images import DEFAULT_MAX_PIXELS, read_image, to_frame
from refseg.media.video import DEFAULT_MAX_FRAMES, VIDEO_SUFFIXES, read_clip

Frame = str | Path | Image.Image | np.ndarray | Tensor
"""One picture."""

Frames = Frame | Sequence[Frame]
"""One picture, or a clip: a video, a folder of frames, an array or tensor with a time axis, or a list of pictures."""

_CHANNELS = (1, 3, 4)


def as_frames(
    frames: Frames, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_frames: int = DEFAULT_MAX_FRAMES
) -> Tensor:
    """Frames in any form as [T, 3, H, W] uint8 RGB; T = 1 for a picture.

    Arguments:
        frames: one of
            a path: of a picture; of a video or a folder of frames, which is a clip;
            a PIL image, whose EXIF orientation is applied, as it is for files;
            a NumPy array: [H, W], [H, W, 1 | 3 | 4] or, for a clip, [T, H, W, 1 | 3 | 4];
            a torch tensor: [1 | 3 | 4, H, W] or, for a clip, [T, 1 | 3 | 4, H, W];
            a list of pictures of one size, which is a clip.
            Arrays and tensors hold uint8, or floats in [0, 1]; four channels are RGBA, and lie on white.
        max_pixels: limit for one picture file; see `read_image`.
        max_frames: limit for a video file; see `read_clip`.

    Raises:
        InvalidInput: if the form, shape, kind of number or size is not one of these.
    """
    if isinstance(frames, list | tuple):
        return _stacked(frames, max_pixels)
    if isinstance(frames, str | Path):
        path = Path(frames)
        if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
            return read_clip(path, max_pixels=max_pixels, max_frames=max_frames).frames
        return read_image(path, max_pixels=max_pixels)
    if isinstance(frames, Image.Image):
        return to_frame(frames)
    if isinstance(frames, np.ndarray):
        return _from_array(frames)
    if isinstance(frames, Tensor):
        return _from_tensor(frames)
    raise InvalidInput(
        f"frames of type {type(frames).__name__} are not understood; give a path, a PIL image, a NumPy array [H, W, 3], "
        "a tensor [3, H, W], or a list of these for a clip"
    )


def _stacked(pictures: Sequence[Any], max_pixels: int) -> Tensor:
    if not pictures:
        raise InvalidInput("the list of frames is empty; give at least one picture")
    frames: list[Tensor] = []
    for number, picture in enumerate(pictures):
        frame = as_frames(picture, max_pixels=max_pixels)
        if len(frame) != 1:
            raise InvalidInput(
                f"entry {number} of the list holds {len(frame)} frames; each entry is one picture"
            )
        if frame.shape != (frames or [frame])[0].shape:
            first, this = (f"{f.shape[-1]}x{f.shape[-2]}" for f in (frames[0], frame))
            raise InvalidInput(
                f"frames of a clip have one size, and frame 0 is {first} and frame {number} is {this} pixels"
            )
        frames.append(frame)
    return torch.cat(frames)


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] not in _CHANNELS:
        hint = (
            "; the channels come last in NumPy arrays"
            if array.ndim == 3 and array.shape[0] in _CHANNELS
            else ""
        )
        raise InvalidInput(
            f"an array of shape {list(array.shape)} is no picture; give [H, W], [H, W, 3], [H, W, 4] or, for a clip, "
            f"[T, H, W, 3]{hint}"
        )
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise InvalidInput(_wrong_numbers("array", str(array.dtype)))
    channels_last = array[None] if array.ndim == 3 else array
    # A copy where torch cannot take the memory as it is: read-only, or with negative strides.
    usable = channels_last.flags.writeable and min(channels_last.strides, default=0) >= 0
    pixels = torch.from_numpy(channels_last if usable else channels_last.copy())
    return _to_uint8_rgb(pixels.permute(0, 3, 1, 2))


def _from_tensor(tensor: Tensor) -> Tensor:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] not in _CHANNELS:
        hint = (
            "; the channels come first in tensors"
            if tensor.ndim == 3 and tensor.shape[-1] in _CHANNELS
            else ""
        )
        raise InvalidInput(
            f"a tensor of shape {list(tensor.shape)} is no picture; give [3, H, W] or, for a clip, [T, 3, H, W]{hint}"
        )
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InvalidInput(_wrong_numbers("tensor", str(tensor.dtype).removeprefix("torch.")))
    pixels = tensor.detach().cpu()
    return _to_uint8_rgb(pixels[None] if pixels.ndim == 3 else pixels)


def _to_uint8_rgb(pixels: Tensor) -> Tensor:
    """[T, 3, H, W] uint8 from [T, 1 | 3 | 4, H, W] uint8, or float in [0, 1]."""
    if 0 in pixels.shape:
        raise InvalidInput(
            f"frames of {pixels.shape[-1]}x{pixels.shape[-2]} pixels, {len(pixels)} of them, hold nothing"
        )
    if pixels.is_floating_point():
        low, high = (float(v) for v in pixels.aminmax())
        if not (low >= 0 and high <= 1):
            raise InvalidInput(
                f"pixels given as floats lie in [0, 1], and these go from {low:.4g} to {high:.4g}; scale them, or give uint8"
            )
        pixels = pixels.float().mul(255).round_().to(torch.uint8)
    if pixels.shape[1] == 1:
        return pixels.expand(-1, 3, -1, -1)
    return pixels if pixels.shape[1] == 3 else _on_white(pixels)


def _on_white(pixels: Tensor) -> Tensor:
    colour, alpha = pixels[:, :3].float(), pixels[:, 3:].float() / 255
    return (colour * alpha + 255 * (1 - alpha)).round_().to(torch.uint8)


def _wrong_numbers(kind: str, dtype: str) -> str:
    return f"an {kind} of {dtype} is ambiguous; give uint8 values, or floats in [0, 1]".replace("an t", "a t")
