"""The eleven colours of the scenes world: how each is drawn, and which of them a picture shows."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.dice import Dice
from refseg.data.scenes.words import COLOURS

Colour = tuple[float, float, float]
"""Red, green and blue in [0, 255]."""

Range = tuple[float, float]

# Hue in degrees, saturation and value in [0, 1]. The space between the boxes is left empty on purpose.
_BOXES: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-8, 8), (0.80, 1.0), (0.75, 0.95)),
    "orange": ((24, 34), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((51, 60), (0.75, 1.0), (0.92, 1.0)),
    "green": ((95, 145), (0.60, 1.0), (0.45, 0.80)),
    "blue": ((208, 235), (0.70, 1.0), (0.65, 1.0)),
    "purple": ((270, 288), (0.55, 0.85), (0.50, 0.80)),
    "pink": ((318, 335), (0.30, 0.55), (0.95, 1.0)),
    "brown": ((18, 28), (0.60, 0.80), (0.35, 0.50)),
    "black": ((0, 360), (0.0, 0.15), (0.04, 0.14)),
    "white": ((0, 360), (0.0, 0.04), (0.95, 1.0)),
    "gray": ((0, 360), (0.0, 0.06), (0.45, 0.62)),
}

_SHADES: dict[str, tuple[str, ...]] = {
    "red": ("brown", "pink"),
    "orange": ("brown",),
    "yellow": ("brown", "orange", "green"),
    "green": ("black",),
    "blue": ("black",),
    "purple": ("black", "blue", "pink"),
    "pink": ("red", "purple", "white"),
    "brown": ("black", "red", "orange"),
    "black": ("gray",),
    "white": ("gray",),
    "gray": ("black", "white"),
}
_NATURAL_SHARE = 0.12


def draw_colour(dice: Dice, index: int) -> Colour:
    """A colour that everybody calls by the name at `index` of COLOURS."""
    hue, saturation, value = (dice.between(*span) for span in _BOXES[COLOURS[index]])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def shades_of(index: int) -> frozenset[int]:
    """The colour itself and those that its darker and lighter shades may be taken for."""
    return frozenset({index, *(COLOURS.index(name) for name in _SHADES[COLOURS[index]])})


def second_tone(colour: Colour) -> Colour:
    """The other tone of a texture: darker, or lighter where the colour is dark."""
    if max(colour) < 60:
        return tuple(channel + 85 for channel in colour)  # type: ignore[return-value]
    return tuple(channel * 0.52 for channel in colour)  # type: ignore[return-value]


def tint_ramp(colour: Colour) -> NDArray[np.uint8]:
    """What each of the 256 levels of luminance becomes in a tinted sprite: [256, 1, 3] uint8."""
    level = np.linspace(0, 1, 256)[:, None]
    base = np.array(colour)
    dark, light = (base * 0.42, base * 0.75 + 64) if max(colour) >= 60 else (base * 0.5, base + 45)
    lower = dark + (base - dark) * np.minimum(level / 0.6, 1)
    upper = (light - base) * np.maximum((level - 0.6) / 0.4, 0)
    return np.clip(np.rint(lower + upper), 0, 255).astype(np.uint8)[:, None]


def natural_colours(picture: NDArray[np.uint8]) -> frozenset[int]:
    """Every named colour that covers more than 12 % of the opaque pixels of a premultiplied RGBA picture.

    Generous at the borders: a pixel between two colours counts for both.
    """
    opaque = picture[picture[..., 3] > 200][:, :3].astype(np.float64) / 255
    high, low = opaque.max(1), opaque.min(1)
    spread = np.maximum(high - low, 1e-9)
    saturation = np.where(high > 0, (high - low) / np.maximum(high, 1e-9), 0.0)
    red, green, blue = opaque.T
    sector = np.where(high == red, ((green - blue) / spread) % 6, 0.0)
    sector = np.where((high == green) & (high != red), (blue - red) / spread + 2, sector)
    sector = np.where((high == blue) & (high != red) & (high != green), (red - green) / spread + 4, sector)
    shows = _shown(sector * 60, saturation, high)
    return frozenset(COLOURS.index(name) for name, where in shows.items() if where.mean() > _NATURAL_SHARE)


def _shown(
    hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    vivid = (saturation > 0.25) & (value > 0.22)
    return {
        "red": vivid & ((hue < 18) | (hue > 340)) & (saturation > 0.4),
        "orange": vivid & (hue > 12) & (hue < 46) & (value > 0.5),
        "yellow": vivid & (hue > 38) & (hue < 72) & (value > 0.5),
        "green": vivid & (hue > 62) & (hue < 175),
        "blue": (saturation > 0.15) & (value > 0.22) & (hue > 170) & (hue < 262),
        "purple": vivid & (hue > 245) & (hue < 320),
        "pink": (saturation > 0.12) & (value > 0.6) & ((hue > 300) | ((hue < 25) & (saturation < 0.6))),
        "brown": (saturation > 0.2) & (value > 0.15) & (value < 0.75) & ((hue < 48) | (hue > 345)),
        "black": (value < 0.42) & ((saturation < 0.45) | (value < 0.3)),
        "white": (saturation < 0.18) & (value > 0.8),
        "gray": (saturation < 0.3) & (value > 0.25) & (value < 0.88),
    }
