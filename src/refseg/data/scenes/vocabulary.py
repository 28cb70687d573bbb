"""The words of the scenes world: nouns, colours, what a word covers, and the closed vocabulary of its phrases.

A word is tested twice: it covers some nouns for sure, and some more for a generous listener. A phrase is only said
when both tests agree on what it means.

The eleven colours of the scenes world: how each is drawn, and which of them a picture shows.
"""

from __future__ import annotations

import colorsys
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.nouns import ALL_NOUNS, ALMOST, GROUPS, plural_of, regular_plural
from refseg.data.scenes.rng import Rng

NOUNS: tuple[str, ...] = tuple(noun.word for noun in ALL_NOUNS)


SHAPES: tuple[str, ...] = tuple(noun.word for noun in ALL_NOUNS if not noun.renderings)


COLOURS: tuple[str, ...] = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    "gray",
)


COLOUR_SYNONYMS: dict[str, str] = {"gray": "grey", "purple": "violet"}


TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checkered")


SPOKEN_TEXTURES: dict[str, tuple[str, ...]] = {
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered",),
}


SMALL: tuple[str, ...] = ("small", "little", "tiny")


LARGE: tuple[str, ...] = ("large", "big", "huge")


ANYTHING: tuple[tuple[str, str], ...] = (("thing", "things"), ("object", "objects"))


_OTHER_WORDS = (
    "the all both that is are on in at of to from and side corner picture image frame "
    "left right top bottom upper lower leftmost rightmost topmost bottommost middle center centre "
    "first second third two three four biggest bigger largest larger smallest smaller "
    "above below under over beneath next near nearest closest close farthest furthest away beside between front central "
    "behind "
    "moving going drifting up down upwards downwards circle circles growing getting becoming shrinking blinking "
    "flashing appearing disappearing spinning rotating turning standing still not round around staying "
    "colored one ones"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A word for things, in both numbers, with the nouns (by index) that it covers."""

    one: str
    many: str
    sure: frozenset[int]
    possible: frozenset[int]  # includes `sure`


@functools.cache
def names_of_noun() -> tuple[tuple[Name, ...], ...]:
    """For every noun its own name, then its synonyms."""
    index = {word: number for number, word in enumerate(NOUNS)}
    table = []
    for number, noun in enumerate(ALL_NOUNS):
        sure = frozenset({number})
        possible = sure | {index[word] for word in ALMOST.get(noun.word, ())}
        own = Name(noun.word, plural_of(noun), sure, possible)
        table.append((own, *(Name(word, regular_plural(word), sure, possible) for word in noun.also)))
    return tuple(table)


@functools.cache
def groups_of_noun() -> tuple[tuple[Name, ...], ...]:
    """For every noun the names of the groups that surely hold it: animal, bird, fruit ..."""
    index = {word: number for number, word in enumerate(NOUNS)}
    names = []
    for group in GROUPS:
        members = {n.word for n in ALL_NOUNS if group.category and n.category == group.category}
        sure = frozenset(index[word] for word in members | set(group.members))
        possible = sure | {index[word] for word in group.almost}
        names.append(Name(group.word, group.plural, sure, possible))
    return tuple(tuple(name for name in names if number in name.sure) for number in range(len(NOUNS)))


@functools.cache
def names_of_anything() -> tuple[Name, ...]:
    """The words that cover every noun: thing, object."""
    everything = frozenset(range(len(NOUNS)))
    return tuple(Name(one, many, everything, everything) for one, many in ANYTHING)


def _all_words() -> Iterator[str]:
    for noun in ALL_NOUNS:
        yield from (noun.word, plural_of(noun), *noun.also, *map(regular_plural, noun.also))
    for group in GROUPS:
        yield from (group.word, group.plural)
    for pair in (*ANYTHING, SMALL, LARGE, COLOURS, COLOUR_SYNONYMS.values(), *SPOKEN_TEXTURES.values()):
        yield from pair
    yield from _OTHER_WORDS.split()


PAD, UNKNOWN = "<pad>", "<unk>"


WORDS: tuple[str, ...] = tuple(sorted(set(_all_words())))
"""Every word that a phrase of this world may hold."""


VOCABULARY: tuple[str, ...] = (PAD, UNKNOWN, *WORDS)
"""The same words after `<pad>` (0) and `<unk>` (1)."""


_FILLERS = frozenset({"a", "an", "please", "find", "segment", "show", "select", "me", "my", "some"})


_FILLER_OPENINGS = re.compile(r"^(?:(?:a |the |an )?(?:picture|photo|image) of )+")


def canonical_words(phrase: str) -> tuple[str, ...]:
    """The words of a phrase as this world spells them: lower case, no punctuation, no fillers.

    Words outside `VOCABULARY` are kept: what to do about them is the tokenizer's decision.
    """
    spaced = " ".join(re.sub(r"[^\w<>]+", " ", phrase.lower()).split())
    return tuple(word for word in _FILLER_OPENINGS.sub("", spaced).split() if word not in _FILLERS)


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


def draw_colour(dice: Rng, index: int) -> Colour:
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
    shows = _visible_colours(sector * 60, saturation, high)
    return frozenset(COLOURS.index(name) for name, where in shows.items() if where.mean() > _NATURAL_SHARE)


def _visible_colours(
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
