"""What lies behind the things: plain colours, gradients, smooth noise, stripes, or a piece of a photograph."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.dice import Dice

Bytes = NDArray[np.uint8]

_PHOTO_SHARE = 0.35


def draw_background(dice: Dice, photos: tuple[Bytes, ...], side: int) -> Bytes:
    """A picture [side, side, 3] without anything that a phrase could mean."""
    if photos and dice.chance(_PHOTO_SHARE):
        return _piece_of(dice, dice.pick(photos), side)
    painter = (_plain, _gradient, _smooth_noise, _stripes)[dice.weighted((25, 35, 25, 15))]
    return painter(dice, side)


def plain_background(colour: tuple[float, float, float], side: int) -> Bytes:
    """One colour everywhere."""
    return np.full((side, side, 3), np.rint(np.array(colour)).astype(np.uint8), np.uint8)


def _muted(dice: Dice) -> tuple[float, float, float]:
    """A colour of any hue, seldom as vivid as the things are."""
    value = dice.between(0.15, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(dice.roll(), dice.between(0.0, 0.5), value)
    return 255 * red, 255 * green, 255 * blue


def _plain(dice: Dice, side: int) -> Bytes:
    return plain_background(_muted(dice), side)


def _gradient(dice: Dice, side: int) -> Bytes:
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    blends = np.array([[dice.roll(), dice.roll()], [dice.roll(), dice.roll()]])[..., None]
    corners = first + (second - first) * blends
    return cv2.resize(np.rint(corners).astype(np.uint8), (side, side), interpolation=cv2.INTER_LINEAR)


def _smooth_noise(dice: Dice, side: int) -> Bytes:
    cells = (3, 5, 8, 14)[dice.below(4)]
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    second = first + (second - first) * dice.between(0.3, 0.9)
    blends = dice.bytes(cells, cells, 1).astype(np.float64) / 255
    coarse = np.rint(first + (second - first) * blends).astype(np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _stripes(dice: Dice, side: int) -> Bytes:
    first, second = np.array(_muted(dice)), np.array(_muted(dice))
    second = first + (second - first) * dice.between(0.2, 0.6)
    across, down = dice.between(-1, 1), dice.between(-1, 1)
    period = max(abs(across) + abs(down), 0.2) * side / dice.between(4, 12)
    grid = np.arange(side)
    is_second = (((grid[:, None] * down + grid * across) / period) % 1.0) < 0.5
    pair = np.rint(np.stack([first, second])).astype(np.uint8)
    return pair[is_second.astype(np.intp)]


def _piece_of(dice: Dice, photo: Bytes, side: int) -> Bytes:
    height, width = photo.shape[:2]
    edge = int(min(height, width) * dice.between(0.4, 0.95))
    top, left = dice.below(height - edge + 1), dice.below(width - edge + 1)
    piece = photo[top : top + edge, left : left + edge]
    if dice.chance(0.5):
        piece = piece[:, ::-1]
    how = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(piece), (side, side), interpolation=how), np.uint8)
