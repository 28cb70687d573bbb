"""Pictures as files: every kind that people have, as upright 8-bit RGB.

What is done to each kind:
- EXIF orientation is applied first; sizes and masks speak of the upright picture.
- Transparent pixels lie on white. Palettes, grey, 1-bit, YCbCr and HSV become RGB. CMYK follows its embedded profile where
  it has one. Profiles of RGB pictures are ignored, as published loaders do.
- 16-bit grey is scaled from 0..65535. Floats in [0, 1] or in [0, 255] keep their scale; other floats and 32-bit integers
  are stretched from their smallest to their largest value. Values that are not finite are black.
- Of an animation the first frame is taken; `read_animation` takes all.
"""

from __future__ import annotations

import io
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from refseg.errors import InvalidInput

DEFAULT_MAX_PIXELS = 100_000_000
"""Pixels of one picture that are read without being told to read more; 300 MB as RGB."""

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .avif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .ico .tga "
    ".psd .heic .heif .jxl"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""What picture files are called; also such as cannot be read, so that they are told and not passed over."""

_WHITE = (255, 255, 255, 255)
_bomb_guard = threading.Lock()


def read_image(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """The picture in a file, upright and in RGB.

    Returns:
        [1, 3, H, W] uint8, (H, W) after EXIF orientation: a clip of one frame.

    Raises:
        InvalidInput: if the file is missing, a folder, no picture, damaged, or has more than `max_pixels` pixels.
    """
    with _opened(Path(path), max_pixels) as picture:
        return to_frame(picture)


def read_stored_image(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """The picture in a file in RGB, its pixels where they are stored: EXIF orientation is not applied.

    Published data sets are annotated so. Shapes and errors as `read_image`.
    """
    with _opened(Path(path), max_pixels) as picture:
        return _as_frame(picture, picture.format)


def read_image_bytes(data: bytes, title: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """The picture in bytes in RGB, its pixels where they are stored; `title` names it in messages.

    Shapes and errors as `read_image`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _check_size(Path(title), picture.size, max_pixels)
            return _as_frame(picture, picture.format)
    except InvalidInput:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        ArithmeticError,
    ) as error:
        raise InvalidInput(
            f"the picture of {title} is damaged ({_short(error)}); get a whole copy"
        ) from error


def read_animation(
    path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS, most: int | None = None
) -> Iterator[Tensor]:
    """The frames of an animated picture (GIF, WebP, APNG) one by one, each [1, 3, H, W] uint8; one for a still picture.

    Raises:
        InvalidInput: as `read_image`.
    """
    with _opened(Path(path), max_pixels) as picture:
        for number, frame in enumerate(ImageSequence.Iterator(picture)):
            if most is not None and number >= most:
                return
            yield to_frame(frame)


def image_size(path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the picture in a file after EXIF orientation, from its header alone.

    Raises:
        InvalidInput: if the file is missing, a folder, no picture, or has more than `max_pixels` pixels.
    """
    with _opened(Path(path), max_pixels) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientations that exchange the sides
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def to_frame(picture: Image.Image) -> Tensor:
    """A PIL picture as [1, 3, H, W] uint8, upright (EXIF orientation applied) and in RGB."""
    return _as_frame(ImageOps.exif_transpose(picture), picture.format)


def _as_frame(picture: Image.Image, stored_as: str | None) -> Tensor:
    pixels = np.asarray(_to_rgb(picture, stored_as))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def with_height(frame: Tensor, height: int) -> Tensor:
    """A frame [3, H, W] uint8 resized to `height` rows by Pillow's bicubic filter; its width keeps the shape, rounded down.

    Source: what the published demo of VLFormer does to a picture first, with 640 rows.
    """
    width = max(1, int(height * (frame.shape[-1] / frame.shape[-2])))
    picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The picture of a file; whatever its decoder trips over, also later, becomes one sentence."""
    try:
        _check_file(path)
        with _open_unguarded(path) as picture:
            _check_size(path, picture.size, max_pixels)
            yield picture
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(
            f"{path} is not a picture that can be read; give JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP"
        ) from error
    except PermissionError as error:
        raise InvalidInput(f"{path} may not be read by this user; change its permissions") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        ArithmeticError,
    ) as error:
        # Decoders of damaged files raise all of these.
        raise InvalidInput(
            f"{path} is damaged or cut short ({_short(error)}); get a whole copy of it"
        ) from error


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # not there, or a name that no file can have
        raise InvalidInput(f"there is no file {path}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InvalidInput(f"{path} is a folder, and a picture file was expected")
    if status.st_size == 0:
        raise InvalidInput(f"{path} is an empty file; get a whole copy of it")


@contextmanager
def _open_unguarded(path: Path) -> Iterator[Image.Image]:
    # Pillow's own limit is one number for the whole process, and stops at 179 million pixels whatever the user
    # allows; ours is checked by the caller right after, before any pixel is decoded.
    with _bomb_guard:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        yield picture


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise InvalidInput(f"{path} is a picture of {width}x{height} pixels, which has no area")
    if width * height > max_pixels:
        raise InvalidInput(
            f"{path} has {width}x{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}; "
            "if you trust it, raise the limit (--max-pixels)"
        )


def _to_rgb(picture: Image.Image, stored_as: str | None) -> Image.Image:
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I;16"):
        return _grey_of(_whole_values(picture), 0.0, 65535.0)
    if picture.mode in ("I", "F"):
        return _wide_to_rgb(picture, stored_as)
    if picture.mode == "CMYK":
        return _cmyk_to_rgb(picture)
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), coloured).convert("RGB")
    return picture.convert("RGB")


def _whole_values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(np.float64)


def _wide_to_rgb(picture: Image.Image, stored_as: str | None) -> Image.Image:
    values = _whole_values(picture)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if picture.mode == "I" and stored_as in ("PNG", "PPM"):
        low, high = 0.0, 65535.0  # these formats hold at most 16 bits, whatever Pillow opens them as
    elif picture.mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return _grey_of(values, low, high)


def _grey_of(values: np.ndarray, low: float, high: float) -> Image.Image:
    scaled = (np.nan_to_num(values, nan=low, posinf=low, neginf=low) - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8)).convert("RGB")


def _cmyk_to_rgb(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile:
        return picture.convert("RGB")
    try:
        printed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            picture, printed, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        # A profile that is damaged or made for other channels says nothing; the picture itself is whole.
        return picture.convert("RGB")
    assert converted is not None
    return converted


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
