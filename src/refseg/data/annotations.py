"""Masks as files of annotations store them: run-length codes, polygons, PNG pictures; and boxes of masks.

What comes from a file is checked before it is drawn: a code that lies about its size or a polygon that runs to infinity
is refused with one sentence, and never reaches code that trusts its input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.structures import Size

_MOST_CHARACTERS = 9  # of one number in compressed counts: 5 bits each, far more than any picture has pixels


def mask_from_rle(code: Mapping[str, Any], size: Size) -> Tensor:
    """Bool [H, W] from a COCO run-length code, compressed (text) or not (list of numbers).

    Args:
        code: {"size": [height, width], "counts": ...}; runs go down the columns, background first.
        size: (height, width) that the mask must have.

    Raises:
        InvalidInput: if a key is missing, the size is another, or the runs do not fill it exactly.
    """
    check_rle(code)
    height, width = code["size"]
    if (height, width) != tuple(size):
        raise InvalidInput(
            f"the run-length code is {height}x{width} (height x width), and the picture is {size[0]}x{size[1]}"
        )
    counts = _counts(code["counts"])
    total = int(counts.sum())
    if total != height * width:
        raise InvalidInput(
            f"the run-length code covers {total} pixels, and its size {height}x{width} has {height * width}"
        )
    values = np.arange(len(counts)) % 2 == 1
    columns = np.repeat(values, counts).reshape(width, height)
    return torch.from_numpy(np.ascontiguousarray(columns.T))


def check_rle(code: Mapping[str, Any]) -> None:
    """Raises InvalidInput unless `code` has the form of a run-length code; its runs are not counted."""
    if set(code) != {"size", "counts"}:
        raise InvalidInput(
            f'a run-length code has the keys "size" and "counts", and this one has {", ".join(map(repr, code)) or "none"}'
        )
    size = code["size"]
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(_is_count(side) and side for side in size)
    ):
        raise InvalidInput(f'"size" of a run-length code is [height, width], and this one is {_shown(size)}')
    if not isinstance(code["counts"], str | bytes | list | tuple):
        raise InvalidInput(
            f'"counts" of a run-length code is text or a list, and this one is {_shown(code["counts"])}'
        )


def rle_of_mask(mask: Tensor) -> dict[str, Any]:
    """The compressed COCO run-length code of a bool mask [H, W], ready for JSON."""
    code = coco.encode(np.asfortranarray(mask.cpu().numpy(), dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def mask_from_polygons(polygons: Sequence[Sequence[float]], size: Size) -> Tensor:
    """Bool [H, W], the union of polygons [x1, y1, x2, y2, ...] in pixels, as pycocotools draws them.

    Raises:
        InvalidInput: if a polygon has fewer than three points, is no list of finite numbers, or lies far outside.
    """
    check_polygons(polygons)
    height, width = size
    for number, polygon in enumerate(polygons, start=1):
        xy = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        low, high = (-width, -height), (2 * width, 2 * height)
        outside = ((xy < low) | (xy > high)).any(axis=1)
        if outside.any():
            x, y = xy[outside.argmax()]
            raise InvalidInput(
                f"polygon {number} has the point ({x:g}, {y:g}), far outside the picture of {width}x{height} pixels"
            )
    return draw_polygons(polygons, size)


def draw_polygons(polygons: Sequence[Sequence[float]], size: Size) -> Tensor:
    """Bool [H, W] of polygons that were checked before, wherever steps have moved them since; what is outside is cut off."""
    codes = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], *size)
    return mask_from_rle(coco.merge(codes), size)


def check_polygons(polygons: Sequence[Any]) -> None:
    """Raises InvalidInput unless `polygons` is a list of flat lists of at least three points each."""
    if not polygons:
        raise InvalidInput("the list of polygons is empty; give at least one [x1, y1, x2, y2, x3, y3, ...]")
    for number, polygon in enumerate(polygons, start=1):
        if not isinstance(polygon, list | tuple) or not all(_is_number(value) for value in polygon):
            raise InvalidInput(
                f"polygon {number} is {_shown(polygon)}; polygons are a list of flat lists [[x1, y1, x2, y2, x3, y3, ...], ...]"
            )
        if len(polygon) < 6 or len(polygon) % 2:
            raise InvalidInput(
                f"polygon {number} has {len(polygon)} numbers; a polygon has x and y of at least three points"
            )


def read_mask_png(path: Path, size: Size) -> Tensor:
    """Bool [H, W] from a PNG picture: every pixel above zero belongs to the object.

    Grey, palette (by index) and RGB pictures are read; transparency is refused, because it could mean either side.

    Raises:
        InvalidInput: if the file is missing, no PNG, of another size, or has an alpha channel.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            _check_png(picture, path, size)
            values = np.asarray(picture)
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no mask {path}") from error
    except UnidentifiedImageError as error:
        raise InvalidInput(f"the mask {path} is not a PNG picture") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the mask {path} cannot be read ({error}); the file may be cut off") from error
    return torch.from_numpy((values > 0).any(axis=2) if values.ndim == 3 else values > 0)


def read_label_png(path: Path) -> np.ndarray:
    """Uint8 [H, W], the numbers of objects in a PNG picture: palette indices or grey values, 0 where there is none.

    Raises:
        InvalidInput: if the file is missing, damaged, no PNG, or holds colours instead of numbers.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no mask {path}") from error
    except UnidentifiedImageError as error:
        raise InvalidInput(f"the mask {path} is not a PNG picture") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"the mask {path} cannot be read ({error}); the file may be cut off") from error
    if mode not in ("P", "L", "1"):
        raise InvalidInput(
            f"the mask {path} holds colours ({mode}), and numbers of objects were expected: a palette or grey PNG; "
            "get the masks as published, without converting them"
        )
    return values.astype(np.uint8)


def _check_png(picture: Any, path: Path, size: Size) -> None:
    width, height = picture.size
    if (height, width) != tuple(size):
        raise InvalidInput(
            f"the mask {path} is {width}x{height} pixels, and its picture is {size[1]}x{size[0]}"
        )
    if "A" in picture.mode:
        raise InvalidInput(
            f"the mask {path} has an alpha channel; save it as one channel where the object is above zero"
        )


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The boxes around masks: edges (x1, y1, x2, y2) in pixels, so that x2 - x1 is the width; zeros where empty.

    Shapes:
        masks: [..., H, W] bool.
        returns: [..., 4] int64.
    """
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2), masks.any(-1)  # [..., W], [..., H]
    x, y = torch.arange(width, device=masks.device), torch.arange(height, device=masks.device)
    edges = [
        x.expand_as(columns).masked_fill(~columns, width).amin(-1),
        y.expand_as(rows).masked_fill(~rows, height).amin(-1),
        (x + 1).expand_as(columns).masked_fill(~columns, 0).amax(-1),
        (y + 1).expand_as(rows).masked_fill(~rows, 0).amax(-1),
    ]
    return torch.stack(edges, -1) * masks.flatten(-2).any(-1)[..., None]


def _counts(counts: str | bytes | Sequence[Any]) -> np.ndarray:
    """Run lengths [N] int64, each at least 0."""
    if isinstance(counts, str | bytes):
        runs = run_lengths(counts.encode("utf-8") if isinstance(counts, str) else counts)
    elif all(_is_count(run) for run in counts):
        runs = np.asarray(counts, dtype=np.int64)
    else:
        raise InvalidInput(
            '"counts" of a run-length code holds whole numbers from 0 on, and this one holds others'
        )
    if not len(runs) or (runs < 0).any() or (runs > 2**40).any():
        raise InvalidInput("the run-length code is damaged: it holds no runs, or runs of impossible length")
    return runs


def run_lengths(text: bytes) -> np.ndarray:
    """The numbers [N] in COCO's compressed counts: lengths of runs, background first.

    Five bits a character (minus 48), lowest first, bit 6 set on all but the last, sign in bit 5 of the last; from the
    fourth number on each is the difference to the one two before. Source: maskApi.c of cocoapi, rleFrString.

    Raises:
        InvalidInput: if no encoder can have written the text. Whether the runs fill a picture is not looked at.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    damaged = InvalidInput("the compressed run-length code is damaged: it is no output of COCO's encoder")
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 0x20:
        raise damaged
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts + 1 > _MOST_CHARACTERS).any():
        raise damaged
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * (place[ends] + 1)), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
