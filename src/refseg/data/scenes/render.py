"""What lies behind the things: plain colours, gradients, smooth noise, stripes, or a piece of a photograph.

From things to pixels: one warp for each thing on its own patch, one id map instead of a mask for each thing.

An id map holds at each pixel the number (from 1) of the last thing whose opacity exceeds one half, so masks are
exact and show only what is visible.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.layout import Split, Thing
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.sprites import LEVELS, Atlas, textures
from refseg.data.scenes.vocabulary import TEXTURES, second_tone, tint_ramp

Bytes = NDArray[np.uint8]


_PHOTO_SHARE = 0.35


def draw_background(dice: Rng, photos: tuple[Bytes, ...], side: int) -> Bytes:
    """A picture [side, side, 3] without anything that a phrase could mean."""
    if photos and dice.chance(_PHOTO_SHARE):
        return _piece_of(dice, dice.pick(photos), side)
    painter = (_plain, _gradient, _smooth_noise, _stripes)[dice.weighted((25, 35, 25, 15))]
    return painter(dice, side)


def plain_background(colour: tuple[float, float, float], side: int) -> Bytes:
    """One colour everywhere."""
    return np.full((side, side, 3), np.rint(np.array(colour)).astype(np.uint8), np.uint8)


def _muted(dice: Rng) -> tuple[float, float, float]:
    """A colour of any hue, seldom as vivid as the things are."""
    value = dice.between(0.15, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(dice.roll(), dice.between(0.0, 0.5), value)
    return 255 * red, 255 * green, 255 * blue


def _plain(dice: Rng, side: int) -> Bytes:
    return plain_background(_muted(dice), side)


def _gradient(dice: Rng, side: int) -> Bytes:
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    blends = np.array([[dice.roll(), dice.roll()], [dice.roll(), dice.roll()]])[..., None]
    corners = first + (second - first) * blends
    return cv2.resize(np.rint(corners).astype(np.uint8), (side, side), interpolation=cv2.INTER_LINEAR)


def _smooth_noise(dice: Rng, side: int) -> Bytes:
    cells = (3, 5, 8, 14)[dice.below(4)]
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    second = first + (second - first) * dice.between(0.3, 0.9)
    blends = dice.bytes(cells, cells, 1).astype(np.float64) / 255
    coarse = np.rint(first + (second - first) * blends).astype(np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _stripes(dice: Rng, side: int) -> Bytes:
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    second = first + (second - first) * dice.between(0.2, 0.6)
    across, down = dice.between(-1, 1), dice.between(-1, 1)
    period = max(abs(across) + abs(down), 0.2) * side / dice.between(4, 12)
    grid = np.arange(side)
    is_second = (((grid[:, None] * down + grid * across) / period) % 1.0) < 0.5
    pair = np.rint(np.stack([first, second])).astype(np.uint8)
    return pair[is_second.astype(np.intp)]


def _piece_of(dice: Rng, photo: Bytes, side: int) -> Bytes:
    height, width = photo.shape[:2]
    edge = int(min(height, width) * dice.between(0.4, 0.95))
    top, left = dice.below(height - edge + 1), dice.below(width - edge + 1)
    piece = photo[top : top + edge, left : left + edge]
    if dice.chance(0.5):
        piece = piece[:, ::-1]
    how = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(piece), (side, side), interpolation=how), np.uint8)


_CONTRAST = 95.0  # between a coloured thing and what lies behind it: sum of absolute differences


_SPRITE_CONTRAST = 60.0


@dataclass(frozen=True, slots=True)
class Patch:
    """A warped thing and the place of its first pixel."""

    rgba: Bytes  # [h, w, 4], premultiplied
    top: int
    left: int


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done to the whole picture, drawn once for a scene."""

    shadow: float  # 0 = none
    shadow_offset: tuple[float, float]  # of the side
    blur: float  # sigma in pixels at a side of 128; 0 = none
    noise: int  # largest change of a value; 0 = none
    contrast: float
    brightness: float


class Skins:
    """Coloured pictures of the things of one scene, kept so that a clip colours each thing once."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._known: dict[tuple[int, int], Bytes] = {}

    def of(self, thing: Thing, number: int, level: int) -> Bytes:
        """The picture [side, side, 4] of a thing at a level, premultiplied."""
        key = (number, level)
        if key not in self._known:
            self._known[key] = self._coloured(thing, level)
        return self._known[key]

    def _coloured(self, thing: Thing, level: int) -> Bytes:
        picture = self._atlas.pictures[level][thing.sprite]
        if thing.colour < 0:
            return picture
        if thing.texture < 0:
            colours = tint_ramp(thing.rgb)[self._atlas.luminance[level][thing.sprite], 0]
        elif thing.texture == 0:
            colours = np.array(thing.rgb, np.float32)
        else:
            colours = _textured(thing, level)
        alpha = picture[..., 3:]
        coloured = np.empty_like(picture)
        coloured[..., :3] = (colours * (alpha * np.float32(1 / 255)) + np.float32(0.5)).astype(np.uint8)
        coloured[..., 3:] = alpha
        return coloured


def _textured(thing: Thing, level: int) -> NDArray[np.float32]:
    bank = textures()[TEXTURES[thing.texture]][level]
    where = bank[int(thing.pattern * len(bank))][..., None] * np.float32(1 / 255)
    first = np.array(thing.rgb, np.float32)
    second = np.array(second_tone(thing.rgb), np.float32)
    return first + (second - first) * where


def warp_thing(thing: Thing, skins: Skins, number: int, side: int) -> Patch:
    """The patch of one thing in a picture of `side` pixels; cut off at the picture's edges."""
    extent = thing.side * side
    level = sum(edge >= extent for edge in LEVELS[1:])  # the smallest level that need not be enlarged
    source = skins.of(thing, number, level)
    cos, sin = math.cos(thing.turn), math.sin(thing.turn)
    wide, high = extent * math.sqrt(thing.aspect), extent / math.sqrt(thing.aspect)
    half_x = (abs(cos) * wide + abs(sin) * high) / 2 + 1
    half_y = (abs(sin) * wide + abs(cos) * high) / 2 + 1
    x, y = thing.x * side - 0.5, thing.y * side - 0.5  # a pixel's number names its centre
    left, right = max(math.floor(x - half_x), 0), min(math.ceil(x + half_x) + 1, side)
    top, bottom = max(math.floor(y - half_y), 0), min(math.ceil(y + half_y) + 1, side)
    if right <= left or bottom <= top:
        return Patch(np.zeros((0, 0, 4), np.uint8), 0, 0)
    edge = source.shape[0]
    per_x, per_y = edge / wide * (-1 if thing.is_mirrored else 1), edge / high
    middle = (edge - 1) / 2
    rows = ((per_x * cos, per_x * sin), (-per_y * sin, per_y * cos))
    affine = [(a, b, a * (left - x) + b * (top - y) + middle) for a, b in rows]
    return Patch(_warped(source, affine, bottom - top, right - left), top, left)


def _warped(source: Bytes, affine: list[tuple[float, float, float]], height: int, width: int) -> Bytes:
    """The source where an affine map from patch pixels (x, y) to source pixels looks, [height, width, 4].

    In whole numbers, 32 steps to a pixel: `cv2.warpAffine` rounds differently from one processor to the next.
    """
    columns, rows = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    steps = [[round(number * 1024) for number in row] for row in affine]
    at_x, at_y = ((columns * a + (rows * b + (c + 16))) >> 5 for a, b, c in steps)
    whole = np.empty((height, width, 2), np.int16)
    whole[..., 0], whole[..., 1] = at_x >> 5, at_y >> 5
    fraction = ((at_y & 31) * 32 + (at_x & 31)).astype(np.uint16)
    return np.asarray(cv2.remap(source, whole, fraction, cv2.INTER_LINEAR), np.uint8)


def id_map(patches: list[Patch], side: int) -> tuple[Bytes, list[int]]:
    """Which thing each pixel shows (0 = none), and the area of every thing before others cover it."""
    ids = np.zeros((side, side), np.uint8)
    areas = []
    for number, patch in enumerate(patches, start=1):
        height, width = patch.rgba.shape[:2]
        opaque = patch.rgba[..., 3] > 127
        ids[patch.top : patch.top + height, patch.left : patch.left + width][opaque] = number
        areas.append(int(np.count_nonzero(opaque)))
    return ids, areas


def measure(things: list[Thing], ids: Bytes, areas: list[int]) -> None:
    """Writes into every thing how much of it is visible."""
    counts = np.bincount(ids.ravel(), minlength=len(things) + 1).tolist()
    for thing, seen, whole in zip(things, counts[1:], areas, strict=True):
        thing.area = seen / ids.size
        thing.visible = seen / max(whole, 1)


def draw_finish(dice: Rng) -> Finish:
    """The finish of a new scene."""
    shadow = dice.between(0.25, 0.55) if dice.chance(0.4) else 0.0
    offset = (dice.between(-0.02, 0.02), dice.between(0.01, 0.03))
    blur = dice.between(0.4, 0.8) if dice.chance(0.3) else 0.0
    noise = 2 + dice.below(11) if dice.chance(0.4) else 0
    return Finish(shadow, offset, blur, noise, dice.between(0.85, 1.12), dice.between(-14, 14))


def fitting_background(dice: Rng, atlas: Atlas, split: Split, things: list[Thing], side: int) -> Bytes:
    """A background against which every thing stands out."""
    photos = atlas.new_photos if split == "new" and atlas.new_photos else atlas.photos
    best, best_excess = None, -math.inf
    for _ in range(8):
        background = draw_background(dice, photos, side)
        excess = _least_contrast(background, things)
        if excess >= 0:
            return background
        if excess > best_excess:
            best, best_excess = background, excess
    for level in (235, 20, 128, 190, 75):
        background = plain_background((level, level, level), side)
        excess = _least_contrast(background, things)
        if excess > best_excess:
            best, best_excess = background, excess
    assert best is not None
    return best


def _least_contrast(background: Bytes, things: list[Thing]) -> float:
    """By how much the worst thing stands out more than it must; negative = camouflage."""
    coarse = cv2.resize(background, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64)
    worst = math.inf
    for thing in things:
        rows, columns = (
            slice(int((c - thing.side / 2) * 16), int((c + thing.side / 2) * 16) + 1)
            for c in (thing.y, thing.x)
        )
        mean = (
            coarse[max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop].mean((0, 1)).tolist()
        )
        apart = sum(abs(a - b) for a, b in zip(mean, thing.rgb, strict=True))
        worst = min(worst, apart - (_CONTRAST if thing.colour >= 0 else _SPRITE_CONTRAST))
    return worst


def compose(background: Bytes, patches: list[Patch], ids: Bytes, finish: Finish) -> Bytes:
    """The picture before `develop`: shadows on the background, then thing after thing."""
    canvas = _with_shadow(background, ids, finish) if finish.shadow else background.copy()
    for patch in patches:
        height, width = patch.rgba.shape[:2]
        if not height:
            continue
        region = canvas[patch.top : patch.top + height, patch.left : patch.left + width]
        through = np.multiply(region, 255 - patch.rgba[..., 3:], dtype=np.uint16) + np.uint16(128)
        through += through >> 8  # with the shift below: division by 255, rounded
        region[...] = (through >> 8).astype(np.uint8) + patch.rgba[..., :3]
    return canvas


def _with_shadow(background: Bytes, ids: Bytes, finish: Finish) -> Bytes:
    side = ids.shape[0]
    right, down = (round(offset * side) for offset in finish.shadow_offset)
    dark = np.zeros_like(ids)
    to_y, to_x = slice(max(down, 0), side + min(down, 0)), slice(max(right, 0), side + min(right, 0))
    from_y, from_x = slice(max(-down, 0), side - max(down, 0)), slice(max(-right, 0), side - max(right, 0))
    dark[to_y, to_x] = (ids[from_y, from_x] > 0) * np.uint8(round(finish.shadow * 255))
    reach = max(side // 24, 2) * 2 + 1
    light = 255 - cv2.blur(dark, (reach, reach))[..., None]
    return (np.multiply(background, light, dtype=np.uint16) >> 8).astype(np.uint8)


def develop(dice: Rng, canvas: Bytes, finish: Finish) -> Bytes:
    """The finished picture: blur, contrast and brightness, noise."""
    picture = canvas
    if finish.blur:
        blurred = cv2.GaussianBlur(picture, (0, 0), finish.blur * canvas.shape[0] / 128)
        picture = np.asarray(blurred, np.uint8)
    levels = (np.arange(256) - 128) * finish.contrast + 128 + finish.brightness
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    picture = np.asarray(cv2.LUT(picture, table), np.uint8)
    if finish.noise:
        change = np.array([round((v / 255 * 2 - 1) * finish.noise) for v in range(256)], np.int8)
        noisy = picture.astype(np.int16) + change[dice.bytes(*picture.shape)]
        picture = np.clip(noisy, 0, 255).astype(np.uint8)
    return picture
