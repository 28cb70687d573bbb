"""Descriptions of things ("small striped red star") and the two tests that decide what they mean.

Every description is tested against all things of a view: `sure` is clearly true, `possible` is true for someone
generous. A phrase is said only when both tests leave exactly the things that are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refseg.data.scenes.layout import Thing
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.vocabulary import (
    COLOUR_SYNONYMS,
    COLOURS,
    LARGE,
    SMALL,
    SPOKEN_TEXTURES,
    TEXTURES,
    Name,
    groups_of_noun,
    names_of_anything,
    names_of_noun,
)

View = Sequence[Thing]
"""The things of one frame; phrases name them by their place in this sequence."""

Meaning = tuple[int, ...]
"""The things that a phrase means, in the order of the view."""

SMALL_BELOW, LARGE_ABOVE, DOUBTFUL = 0.185, 0.29, 0.235


@dataclass(frozen=True, slots=True)
class Claim:
    """A phrase, and the test of what it means: None where it is false or ambiguous."""

    text: str
    template: str  # kind of phrase, finer than its register
    meaning: Callable[[View], Meaning | None]
    name: Name | None = None  # of what is meant, where it matters how many things answer to the bare noun


@dataclass(frozen=True, slots=True)
class Description:
    """What is said of one kind of thing; empty where nothing is said."""

    name: Name
    colour: int = -1
    texture: int = 0
    size: str = ""  # "small" or "large"

    def sure(self, thing: Thing) -> bool:
        """Whether it is clearly true of the thing."""
        if thing.noun not in self.name.sure or (self.colour >= 0 and thing.colour != self.colour):
            return False
        if self.texture > 0 and thing.texture != self.texture:
            return False
        if self.size:
            return thing.side < SMALL_BELOW if self.size == "small" else thing.side > LARGE_ABOVE
        return True

    def possible(self, thing: Thing) -> bool:
        """Whether someone generous would grant it."""
        if thing.noun not in self.name.possible or (
            self.colour >= 0 and self.colour not in thing.maybe_colours
        ):
            return False
        if self.texture > 0 and thing.texture not in (self.texture, -1):  # a sprite may show any texture
            return False
        if self.size:
            return thing.side < DOUBTFUL if self.size == "small" else thing.side > DOUBTFUL
        return True

    def tested(self, view: View) -> tuple[list[int], list[int]]:
        """The things of which it is surely, and possibly, true."""
        possible = [i for i, thing in enumerate(view) if self.possible(thing)]
        return [i for i in possible if self.sure(view[i])], possible

    def only(self, view: View) -> int | None:
        """The one thing it means; None when there is no such thing or a second one is thinkable."""
        sure, possible = self.tested(view)
        return sure[0] if len(possible) == 1 and sure == possible else None

    def all_of(self, view: View) -> list[int] | None:
        """All things it means; None when some are in doubt."""
        sure, possible = self.tested(view)
        return sure if sure and sure == possible else None


@dataclass(frozen=True, slots=True)
class Habits:
    """How often a description says what."""

    group: float = 0.15
    anything: float = 0.15
    synonym: float = 0.25
    colour: float = 0.3
    texture: float = 0.15
    size: float = 0.0


def describe(dice: Rng, thing: Thing, habits: Habits) -> Description:
    """A description that is surely true of the thing."""
    size = ""
    if thing.side < SMALL_BELOW or thing.side > LARGE_ABOVE:
        size = "small" if thing.side < SMALL_BELOW else "large"
    return Description(
        name=_draw_name(dice, thing, habits),
        colour=thing.colour if dice.chance(habits.colour) else -1,
        texture=thing.texture if thing.texture > 0 and dice.chance(habits.texture) else 0,
        size=size if size and dice.chance(habits.size) else "",
    )


def _draw_name(dice: Rng, thing: Thing, habits: Habits) -> Name:
    kind = dice.roll()
    if kind < habits.anything:
        return dice.pick(names_of_anything())
    groups = groups_of_noun()[thing.noun]
    if groups and kind < habits.anything + habits.group:
        return dice.pick(groups)
    return noun_name(dice, thing.noun, habits.synonym)


def noun_name(dice: Rng, noun: int, synonym: float = 0.25) -> Name:
    """The noun's own word, or now and then a synonym."""
    names = names_of_noun()[noun]
    return dice.pick(names[1:]) if len(names) > 1 and dice.chance(synonym) else names[0]


def format_description(
    dice: Rng, described: Description, *, many: bool = False, with_colour: bool = True
) -> str:
    """The description in words, without an article: "small striped red star"."""
    words = []
    if described.size:
        words.append(dice.pick(SMALL if described.size == "small" else LARGE))
    if described.texture > 0:
        words.append(dice.pick(SPOKEN_TEXTURES[TEXTURES[described.texture]]))
    if described.colour >= 0 and with_colour:
        words.append(format_colour(dice, described.colour))
    words.append(described.name.many if many else described.name.one)
    return " ".join(words)


def format_colour(dice: Rng, colour: int) -> str:
    """A colour's word, or now and then its synonym."""
    word = COLOURS[colour]
    return COLOUR_SYNONYMS[word] if word in COLOUR_SYNONYMS and dice.chance(0.3) else word
