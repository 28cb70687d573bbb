"""Small scenes and things for the tests of the scenes world."""

from __future__ import annotations

import pytest

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.layout import Thing
from refseg.data.scenes.sprites import NO_SPRITES, find_font
from refseg.data.scenes.vocabulary import COLOURS, NOUNS

needs_font = pytest.mark.skipif(
    find_font() is None, reason="no colour emoji font on this machine (Debian: fonts-noto-color-emoji)"
)


def shapes(**changes: object) -> Scenes:
    """Scenes of the world that needs neither font nor photographs."""
    return Scenes(ScenesSpec(**{"size": 64, "sprites": NO_SPRITES, "count": 100, **changes}))  # type: ignore[arg-type]


def thing(noun: str, x: float, y: float, *, colour: str = "", side: float = 0.22, **changes: object) -> Thing:
    """A thing at a place; without a colour it is an untinted sprite."""
    number = COLOURS.index(colour) if colour else -1
    values = {
        "noun": NOUNS.index(noun),
        "sprite": 0,
        "colour": number,
        "texture": 0 if colour else -1,
        "maybe_colours": frozenset({number} if colour else ()),
        "x": x,
        "y": y,
        "side": side,
        "area": side * side * 0.7,
        **changes,
    }
    return Thing(**values)  # type: ignore[arg-type]
