"""Stored outlines and run-length codes as masks, fast: what pycocotools draws, laid out for torch.

Three answers are published for an object of several parts: their union (ReferFormer, ReLA, pycocotools), the number of
parts over each pixel (the REFER API), and the pixels under exactly one part (LAVT, LGFormer, VPD). The union is the
one to use; the others are for reproducing published numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from refseg.data.annotations import check_rle, mask_from_rle, run_lengths
from refseg.errors import InvalidInput
from refseg.structures import Size

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
