"""Photographs for backgrounds, from the files that come with scikit-image; none is ever downloaded.

Photographs that show something the vocabulary names (a cat, a rocket, coins, a cup) would make phrases wrong and
are not used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAINING_PHOTOS: tuple[str, ...] = (
    *("brick.png", "grass.png", "moon.png", "hubble_deep_field.jpg", "retina.jpg", "page.png", "text.png"),
    "microaneurysms.png",
)
NEW_PHOTOS: tuple[str, ...] = ("gravel.png", "ihc.png")
"""Never shown in training."""

_LARGEST = 400

_PIECES: dict[str, tuple[float, float, float, float]] = {
    "retina.jpg": (0.2, 0.2, 0.8, 0.8),  # the whole is a disc before black
    "moon.png": (0.0, 0.25, 1.0, 1.0),  # above lies a crater that looks like a ball
}
"""What is used of a photograph where the rest could be meant by a phrase: left, top, right, bottom in [0, 1]."""


def read_photos(names: tuple[str, ...]) -> tuple[NDArray[np.uint8], ...]:
    """Those of the named photographs that are installed, each [H, W, 3] uint8 and at most 400 pixels wide or high."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent / "data"
    return tuple(_read(folder / name) for name in names if (folder / name).is_file())


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        colour = picture.convert("RGB")
        left, top, right, bottom = _PIECES.get(path.name, (0.0, 0.0, 1.0, 1.0))
        width, height = colour.size
        colour = colour.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
        colour.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
        return np.array(colour)
