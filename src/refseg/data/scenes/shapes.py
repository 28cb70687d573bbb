"""The eleven shapes and the textures of the scenes world, drawn once at a large size and reduced."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refseg.data.scenes.words import SHAPES

LEVELS: tuple[int, ...] = (128, 64, 32)
"""Sides in pixels at which every sprite and texture is kept."""

_DRAWN = 512
Bytes = NDArray[np.uint8]
Points = list[tuple[float, float]]


@functools.cache
def shape_alphas() -> tuple[Bytes, ...]:
    """How opaque each of the shapes is, for every level [shapes, side, side] uint8."""
    return reduced(np.stack([_drawn(_PAINTERS[name]) for name in SHAPES]))


@functools.cache
def textures() -> dict[str, tuple[Bytes, ...]]:
    """Where the second tone of a texture lies, for every level [variants, side, side] uint8."""
    y, x = np.mgrid[0:_DRAWN, 0:_DRAWN] / _DRAWN
    stripes = [(axis * 4.0 + 0.25) % 1 < 0.5 for axis in (x, y, (x + y) / 1.4, (x - y) / 1.4)]
    dots = ((x * 4) % 1 - 0.5) ** 2 + ((y * 4) % 1 - 0.5) ** 2 < 0.3**2
    checks = ((x * 4).astype(int) + (y * 4).astype(int)) % 2 == 1
    banks = {"striped": np.stack(stripes), "dotted": dots[None], "checkered": checks[None]}
    return {name: reduced((bank * 255).astype(np.uint8)) for name, bank in banks.items()}


def reduced(large: Bytes) -> tuple[Bytes, ...]:
    """Block means of [n, side, side] pictures at every level; exact on every machine."""
    return tuple(_block_means(large, large.shape[1] // side) for side in LEVELS)


def _block_means(large: Bytes, step: int) -> Bytes:
    count, side, _ = large.shape
    blocks = large.reshape(count, side // step, step, side // step, step).astype(np.uint32)
    return ((blocks.sum((2, 4)) + step * step // 2) // (step * step)).astype(np.uint8)


def _drawn(paint: Callable[[ImageDraw.ImageDraw], None]) -> Bytes:
    picture = Image.new("L", (_DRAWN, _DRAWN))
    paint(ImageDraw.Draw(picture))
    return np.array(picture)


def _polygon(points: Points) -> Callable[[ImageDraw.ImageDraw], None]:
    """Paints a polygon whose corners are given in [0, 1]."""
    corners = [(round(x * (_DRAWN - 1)), round(y * (_DRAWN - 1))) for x, y in points]
    return lambda draw: draw.polygon(corners, fill=255)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int = 255) -> None:
    box = [round(v * (_DRAWN - 1)) for v in (x - radius, y - radius, x + radius, y + radius)]
    draw.ellipse(box, fill=fill)


def _circle(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.5, 0.5, 0.5)


def _ring(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.5, 0.5, 0.5)
    _disc(draw, 0.5, 0.5, 0.27, fill=0)


def _crescent(draw: ImageDraw.ImageDraw) -> None:
    _disc(draw, 0.58, 0.5, 0.5)
    _disc(draw, 0.84, 0.5, 0.42, fill=0)


def _around(count: int, radii: tuple[float, ...], start: float = -90.0) -> Points:
    turns = [math.radians(start + 360.0 * k / count) for k in range(count)]
    return [
        (0.5 + radii[k % len(radii)] * math.cos(turn), 0.5 + radii[k % len(radii)] * math.sin(turn))
        for k, turn in enumerate(turns)
    ]


def _heart() -> Points:
    turns = [2 * math.pi * k / 200 for k in range(200)]
    xs = [16 * math.sin(t) ** 3 for t in turns]
    ys = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(0.5 + x / 33, 0.43 - y / 30) for x, y in zip(xs, ys, strict=True)]


def _cross() -> Points:
    a, b = 0.33, 0.67
    return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]


_ARROW = [(0, 0.34), (0.52, 0.34), (0.52, 0.06), (1, 0.5), (0.52, 0.94), (0.52, 0.66), (0, 0.66)]

_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "circle": _circle,
    "square": _polygon([(0.04, 0.04), (0.96, 0.04), (0.96, 0.96), (0.04, 0.96)]),
    "triangle": _polygon([(0.5, 0.03), (1, 0.93), (0, 0.93)]),
    "star": _polygon(_around(10, (0.52, 0.21))),
    "ring": _ring,
    "cross": _polygon(_cross()),
    "heart": _polygon(_heart()),
    "diamond": _polygon([(0.5, 0), (0.86, 0.5), (0.5, 1), (0.14, 0.5)]),
    "hexagon": _polygon(_around(6, (0.5,), start=0.0)),
    "arrow": _polygon(_ARROW),
    "crescent": _crescent,
}
