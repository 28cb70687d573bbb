"""Masks as files of annotations store them: run-length codes, polygons, PNG pictures; and boxes of masks.

What comes from a file is checked before it is drawn: a code that lies about its size or a polygon that runs to infinity
is refused with one sentence, and never reaches code that trusts its input.

Stored outlines and run-length codes as masks, fast: what pycocotools draws, laid out for torch.

Three answers are published for an object of several parts: their union (ReferFormer, ReLA, pycocotools), the number of
parts over each pixel (the REFER API), and the pixels under exactly one part (LAVT, LGFormer, VPD). The union is the
one to use; the others are for reproducing published numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
        raise InvalidInput(
            f'"size" of a run-length code is [height, width], and this one is {_abbreviate(size)}'
        )
    if not isinstance(code["counts"], str | bytes | list | tuple):
        raise InvalidInput(
            f'"counts" of a run-length code is text or a list, and this one is {_abbreviate(code["counts"])}'
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
                f"polygon {number} is {_abbreviate(polygon)}; polygons are a list of flat lists [[x1, y1, x2, y2, x3, y3, ...], ...]"
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


def _abbreviate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


MaskRule = Literal["union", "exactly-one"]
"""Pixels under any part, or (published behaviour of LAVT, LGFormer and VPD) under exactly one."""


Part = np.ndarray | bytes
"""A polygon [x1, y1, x2, y2, ...] in pixels, or the compressed counts of a run-length code of the picture's size."""


LEAST_NUMBERS = 6  # of a polygon that encloses anything


_REACH = 20  # sides of the picture that a point may lie away


def drawable(parts: Sequence[Part]) -> list[Part]:
    """The parts that pycocotools can draw: polygons of three points and more; a number left over at the end is cut off.

    Polygons of fewer points cover no pixel, and as the first of a list end pycocotools with an error.
    """
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, bytes):
            kept.append(part)
        elif len(part) >= LEAST_NUMBERS:
            kept.append(part[: len(part) // 2 * 2])
    return kept


def draw_union(parts: Sequence[Part], size: Size, out: Tensor | None = None) -> Tensor:
    """Bool [H, W], the pixels under any part; written into `out` where one is given."""
    import cv2

    mask = torch.empty(size, dtype=torch.bool) if out is None else out
    assert mask.is_contiguous()  # else OpenCV would write elsewhere
    columns = [_columns(code, size) for code in _codes(parts, size)]
    if not columns:
        return mask.zero_()
    for other in columns[1:]:
        np.logical_or(columns[0], other, out=columns[0])
    # Codes run down the columns; OpenCV turns them into rows many times faster than NumPy.
    cv2.transpose(columns[0].view(np.uint8), mask.numpy().view(np.uint8))
    return mask


def draw_count(parts: Sequence[Part], size: Size) -> Tensor:
    """Uint8 [H, W], how many parts cover each pixel, as the REFER API says it."""
    counted = np.zeros(size[::-1], dtype=np.uint8)
    for code in _codes(parts, size):
        counted += _columns(code, size).view(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(counted.T))


def draw(parts: Sequence[Part], size: Size, rule: MaskRule, out: Tensor | None = None) -> Tensor:
    """Bool [H, W] by a rule; written into `out` where one is given."""
    if rule == "union":
        return draw_union(parts, size, out)
    once = draw_count(parts, size) == 1
    return once if out is None else out.copy_(once)


def _codes(parts: Sequence[Part], size: Size) -> list[bytes]:
    """Compressed counts of every part."""
    height, width = size
    kept = drawable(parts)
    polygons = [part for part in kept if not isinstance(part, bytes)]
    codes = [part for part in kept if isinstance(part, bytes)]
    drawn = coco.frPyObjects(polygons, height, width) if polygons else []
    return codes + [code["counts"] for code in drawn]


def _columns(code: bytes, size: Size) -> np.ndarray:
    """Bool [W, H] of compressed counts; faster than pycocotools, which writes pixel by pixel."""
    height, width = size
    counts = run_lengths(code)
    try:
        values = np.arange(len(counts)) & 1 == 1
        return values.repeat(counts).reshape(width, height)
    except ValueError as error:
        raise InvalidInput(
            f"a run-length code does not fill the {width}x{height} pixels of its picture"
        ) from error


def check_parts(parts: Any, size: Size) -> list[Part]:
    """The parts of a stored segmentation, checked so that drawing them is safe: polygons, codes, or one bare code.

    Raises:
        InvalidInput: if it has another form, a code of another size, or a point that is infinite or far outside.
    """
    if isinstance(parts, dict):
        return [check_code(parts, size)]
    if not isinstance(parts, list):
        raise InvalidInput("it is neither a list of polygons nor a run-length code")
    return [check_code(part, size) if isinstance(part, dict) else _polygon(part, size) for part in parts]


def check_code(code: dict[str, Any], size: Size) -> bytes:
    """The compressed counts of a run-length code that fills the picture exactly.

    Raises:
        InvalidInput: if it does not, or is damaged.
    """
    check_rle({"size": code.get("size"), "counts": code.get("counts")})
    plain = {"size": code["size"], "counts": code["counts"]}
    mask = mask_from_rle(plain, size)
    if isinstance(plain["counts"], list):
        columns = np.asfortranarray(mask.numpy(), dtype=np.uint8)
        return bytes(coco.encode(columns)["counts"])
    counts = plain["counts"]
    return counts.encode("ascii") if isinstance(counts, str) else counts


def _polygon(part: Any, size: Size) -> np.ndarray:
    try:
        points = np.array(part, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput("a polygon holds something that is no number") from error
    if points.ndim != 1 or not isinstance(part, list) or any(isinstance(v, str | bool) for v in part[:1]):
        raise InvalidInput("a polygon is no flat list of numbers")
    reach = _REACH * max(size)
    if len(points) and not np.abs(points).max() <= reach:
        worst = points[~(np.abs(points) <= reach)][0]
        what = "is no finite number" if not math.isfinite(worst) else "lies far outside the picture"
        raise InvalidInput(f"a polygon has the coordinate {worst:g}, which {what} ({size[1]}x{size[0]})")
    return points


def inclusive_box(mask: Tensor) -> list[float]:
    """[x of the first column, y of the first row, x of the last, y of the last] that hold a pixel; zeros where empty.

    Published loaders of video data take the last column itself for the edge; `annotations.boxes_of_masks` does not.
    """
    if not mask.any():
        return [0.0, 0.0, 0.0, 0.0]
    columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
    return [float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])]
