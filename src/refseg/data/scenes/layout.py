"""What stands where: the things of one scene, before anything is drawn.

Places and sides are fractions of the picture's side; x grows to the right and y downwards.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass, field, replace
from typing import Literal

from refseg.data.scenes.nouns import ALL_NOUNS
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.sprites import Atlas
from refseg.data.scenes.vocabulary import COLOURS, NOUNS, SHAPES, TEXTURES, Colour, draw_colour, shades_of

Split = Literal["train", "val", "new"]

NUM_HELD_OUT_PAIRS = 201
_COUNTS = (2, 3, 4, 5, 6, 7, 8)
_COUNT_WEIGHTS = (8.0, 14.0, 20.0, 20.0, 18.0, 12.0, 8.0)
_REPEATS = (0.15, 0.5, 0.75)  # one of them holds for the whole scene
_SIDES = ((0.15, 0.20), (0.20, 0.30), (0.30, 0.42))
_SIDE_WEIGHTS = (30.0, 40.0, 30.0)
_CROWD, _CROWD_SHRINK = 7, 0.85
_TINTED_SHARE = 0.28
_PLAIN_SHARE = 0.55
_LARGEST_TURN = math.radians(18)  # more would make a diamond of a square
_KEEPS_FACING = frozenset({"arrow", "crescent"})
_APART, _APART_OVERLAPPING, _APART_ONE_COLOUR = 0.95, 0.62, 1.05  # of the mean side
_FIRST_SHAPE = len(NOUNS) - len(SHAPES)


@dataclass(slots=True)
class Thing:
    """One thing: what it is, how it looks and where it stands."""

    noun: int  # index into NOUNS
    sprite: int  # index into the atlas
    colour: int  # index into COLOURS; -1 = an untinted sprite, which has no colour word
    texture: int  # index into TEXTURES; -1 = a sprite
    maybe_colours: frozenset[int]  # all that a generous listener would grant, `colour` included
    rgb: Colour = (0.0, 0.0, 0.0)
    pattern: float = 0.0  # chooses among the variants of a texture
    side: float = 0.0
    turn: float = 0.0  # radians
    aspect: float = 1.0
    is_mirrored: bool = False
    x: float = 0.0
    y: float = 0.0
    area: float = 0.0  # what is visible, as a share of the picture
    visible: float = 1.0  # share of the thing that nothing covers
    motion: str = ""  # in clips


@dataclass(slots=True)
class Plan:
    """The choices that hold for a whole scene."""

    kinds: str  # "shapes", "sprites" or "both"
    repeat: float
    apart: float
    split: Split
    chosen: list[Thing] = field(default_factory=list)


@functools.cache
def held_out_pairs() -> frozenset[tuple[int, int]]:
    """(noun, colour) pairs that are never drawn for training; fixed by a checksum of their words."""
    pairs = [(noun, colour) for noun in range(len(NOUNS)) for colour in range(len(COLOURS))]
    pairs.sort(key=lambda pair: (zlib.crc32(f"{COLOURS[pair[1]]} {NOUNS[pair[0]]}".encode()), pair))
    return frozenset(pairs[:NUM_HELD_OUT_PAIRS])


@functools.cache
def people() -> frozenset[int]:
    """The nouns that have no colour and of which no colour is said: people are not named by colours."""
    return frozenset(number for number, noun in enumerate(ALL_NOUNS) if noun.category == "person")


def draw_things(dice: Rng, atlas: Atlas, split: Split, count: int | None = None) -> list[Thing]:
    """The things of a new scene, placed; later ones stand before earlier ones."""
    kinds = ("shapes", "sprites", "both")[dice.weighted((22, 40, 38))] if atlas.has_sprites else "shapes"
    apart = _APART_OVERLAPPING if dice.chance(0.25) else _APART
    plan = Plan(kinds, dice.pick(_REPEATS), apart, split)
    wanted = count or _COUNTS[dice.weighted(_COUNT_WEIGHTS)]
    for _ in range(wanted):
        plan.chosen.append(_draw_thing(dice, atlas, plan))
    for thing in plan.chosen:
        _draw_pose(dice, thing, shrink=_CROWD_SHRINK if wanted >= _CROWD else 1.0)
    return _place_all(dice, plan)


def _draw_thing(dice: Rng, atlas: Atlas, plan: Plan) -> Thing:
    noun, colour = _draw_noun(dice, plan)
    is_shape = noun >= _FIRST_SHAPE
    if not is_shape and colour < 0 and dice.chance(_TINTED_SHARE):
        colour = dice.below(len(COLOURS))
    if noun in people():
        colour = -1
    if is_shape or colour >= 0:
        colour = _allowed_colour(dice, noun, colour, plan.split)
    sprite = _draw_sprite(dice, atlas, noun, plan.split)
    texture = _draw_texture(dice) if is_shape else -1
    maybe = shades_of(colour) if colour >= 0 else atlas.sprites[sprite].natural
    if texture == 0:
        maybe = frozenset({colour})
    rgb = draw_colour(dice, colour) if colour >= 0 else atlas.sprites[sprite].mean
    return Thing(noun, sprite, colour, texture, maybe, rgb, dice.roll())


def _draw_texture(dice: Rng) -> int:
    return 0 if dice.chance(_PLAIN_SHARE) else dice.below(len(TEXTURES))


def _draw_noun(dice: Rng, plan: Plan) -> tuple[int, int]:
    """A noun, and a colour to copy (-1 = none): often like an earlier thing's, since a lone noun needs no more words."""
    if plan.chosen and dice.chance(plan.repeat):
        model = dice.pick(plan.chosen)
        wish = dice.weighted((55, 30, 15))
        if wish == 0:
            return model.noun, -1
        if wish == 2 and model.colour >= 0:
            return _any_noun(dice, plan.kinds), model.colour
        category = ALL_NOUNS[model.noun].category
        colour = model.colour if dice.chance(0.3) else -1
        return dice.pick([i for i, noun in enumerate(ALL_NOUNS) if noun.category == category]), colour
    return _any_noun(dice, plan.kinds), -1


def _any_noun(dice: Rng, kinds: str) -> int:
    if kinds == "shapes" or (kinds == "both" and dice.chance(0.35)):
        return _FIRST_SHAPE + dice.below(len(SHAPES))
    return dice.below(_FIRST_SHAPE)


def _allowed_colour(dice: Rng, noun: int, wish: int, split: Split) -> int:
    """The wish where the split shows that pair, else a colour that it shows."""
    held_out = held_out_pairs()
    shown = [c for c in range(len(COLOURS)) if ((noun, c) in held_out) == (split == "new")]
    if not shown:  # a noun of which no pair was held out
        shown = list(range(len(COLOURS)))
    return wish if wish in shown else dice.pick(shown)


def _draw_sprite(dice: Rng, atlas: Atlas, noun: int, split: Split) -> int:
    fresh = atlas.new_of_noun[noun]
    return dice.pick(fresh if split == "new" and fresh else atlas.of_noun[noun])


def _draw_pose(dice: Rng, thing: Thing, *, shrink: float) -> None:
    thing.side = dice.between(*_SIDES[dice.weighted(_SIDE_WEIGHTS)]) * shrink
    thing.turn = dice.between(-_LARGEST_TURN, _LARGEST_TURN)
    thing.aspect = dice.between(0.9, 1.1)
    thing.is_mirrored = dice.chance(0.5) and NOUNS[thing.noun] not in _KEEPS_FACING


def make_twins(things: list[Thing]) -> None:
    """Gives the second thing the look of the first; its place and pose stay its own."""
    first, second = things[:2]
    look = ("noun", "sprite", "colour", "texture", "maybe_colours", "rgb", "pattern", "is_mirrored")
    things[1] = replace(second, **{name: getattr(first, name) for name in look})


def _place_all(dice: Rng, plan: Plan) -> list[Thing]:
    """The things with places; what finds no room is left out, but two always stay."""
    placed: list[Thing] = []
    while len(placed) < 2:
        placed = []
        for thing in plan.chosen:
            if _place(dice, thing, placed, plan.apart):
                placed.append(thing)
    return placed


def _place(dice: Rng, thing: Thing, others: list[Thing], apart: float, tries: int = 50) -> bool:
    low, high = thing.side * 0.52, 1 - thing.side * 0.52
    for _ in range(tries):
        thing.x, thing.y = dice.between(low, high), dice.between(low, high)
        if all(are_apart(thing, other, apart) for other in others):
            return True
    return False


def are_apart(one: Thing, other: Thing, apart: float) -> bool:
    """Whether the centres are far enough from each other; things of one colour must not touch."""
    if one.colour >= 0 and one.colour == other.colour:
        apart = _APART_ONE_COLOUR
    reach = apart * (one.side + other.side) / 2
    return (one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= reach * reach
