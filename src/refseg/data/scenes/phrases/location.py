"""Short phrases: by appearance alone (app), and by place, order or size in the picture (loc)."""

from __future__ import annotations

import itertools

from refseg.data.scenes.layout import Thing
from refseg.data.scenes.phrases.describe import (
    Claim,
    Description,
    Habits,
    Meaning,
    View,
    describe,
    format_colour,
    format_description,
)
from refseg.data.scenes.rng import Rng

_APP_HABITS = Habits(group=0.12, anything=0.15, colour=0.55, texture=0.35, size=0.3)
_LOC_HABITS = Habits(group=0.2, anything=0.2)

# Margins, as fractions of the picture's side.
_BEFORE_NEXT = 0.10  # an extreme thing before the next candidate
_PAST_MIDDLE = 0.06  # a lone candidate, to be called left, right ...
_WRONG_HALF = 0.55  # a thing beyond is not "on the left", even as the leftmost candidate
_CORNER_BEFORE_NEXT = 0.18  # in x + y
_CORNER = 0.42
_ORDER_GAP = 0.075
_SIDE_RATIO, _AREA_RATIO = 1.28, 1.25
_CENTRE, _NOT_CENTRE = 0.12, 0.22

_EXTREMES = {
    "left": ("left {}", "{} on the left", "{} on the left side", "leftmost {}", "{} left", "{} to the left"),
    "right": (
        "right {}",
        "{} on the right",
        "{} on the right side",
        "rightmost {}",
        "{} right",
        "{} to the right",
    ),
    "top": ("top {}", "{} at the top", "upper {}", "topmost {}"),
    "bottom": ("bottom {}", "{} at the bottom", "lower {}", "bottommost {}"),
}
_ORDINALS = ("second", "third")
_FROM = {
    "left": "{} {} from the left",
    "right": "{} {} from the right",
    "top": "{} {} from the top",
    "bottom": "{} {} from the bottom",
}
_BIGGEST = (("biggest {}", "largest {}"), ("bigger {}", "larger {}"))
_SMALLEST = (("smallest {}",), ("smaller {}",))


def say_appearance(dice: Rng, view: View) -> Claim:
    """The striped red N; N that is red."""
    described = describe(dice, dice.pick(view), _APP_HABITS)
    if described.colour >= 0 and dice.chance(0.12):
        text = f"{format_description(dice, described, with_colour=False)} that is {format_colour(dice, described.colour)}"
    else:
        text = format_description(dice, described)
    return Claim(_article(dice, text), "appearance", lambda now: _one(described.only(now)))


def say_location(dice: Rng, view: View) -> Claim:
    """One of the location phrases."""
    described = describe(dice, dice.pick(view), _LOC_HABITS)
    maker = (_extreme, _corner, _ordinal, _middle, _by_size, _central)[dice.weighted((34, 12, 26, 8, 14, 6))]
    return maker(dice, described)


def towards(thing: Thing, direction: str) -> float:
    """How far a thing lies in a direction; the largest is the most extreme."""
    return {"left": -thing.x, "right": thing.x, "top": -thing.y, "bottom": thing.y}[direction]


def _article(dice: Rng, text: str) -> str:
    return f"the {text}" if dice.chance(0.3) else text


def _one(found: int | None) -> Meaning | None:
    return None if found is None else (found,)


def _extreme(dice: Rng, described: Description) -> Claim:
    direction = dice.pick(tuple(_EXTREMES))
    wording = dice.pick(_EXTREMES[direction])
    superlative = "most" in wording
    half = 0.5 if direction in ("right", "bottom") else -0.5

    def meaning(view: View) -> Meaning | None:
        sure, possible = described.tested(view)
        ranked = sorted(possible, key=lambda i: -towards(view[i], direction))
        if not ranked or ranked[0] not in sure:
            return None
        first = towards(view[ranked[0]], direction)
        if len(ranked) == 1:
            return (ranked[0],) if not superlative and first - half >= _PAST_MIDDLE else None
        clear = first - towards(view[ranked[1]], direction) >= _BEFORE_NEXT
        placed = superlative or first - half >= 0.5 - _WRONG_HALF
        return (ranked[0],) if clear and placed else None

    return Claim(_article(dice, wording.format(format_description(dice, described))), "extreme", meaning)


def _corner(dice: Rng, described: Description) -> Claim:
    across, down = dice.pick(("left", "right")), dice.pick(("top", "bottom"))
    words = format_description(dice, described)
    forms = (
        f"{down} {across} {words}",
        f"{words} in the {down} {across} corner",
        f"{words} in the {down} {across}",
    )

    def depth(thing: Thing) -> float:
        return towards(thing, across) + towards(thing, down)

    def meaning(view: View) -> Meaning | None:
        sure, possible = described.tested(view)
        ranked = sorted(possible, key=lambda i: -depth(view[i]))
        if not ranked or ranked[0] not in sure:
            return None
        thing = view[ranked[0]]
        x = thing.x if across == "left" else 1 - thing.x
        y = thing.y if down == "top" else 1 - thing.y
        if max(x, y) > _CORNER:
            return None
        clear = len(ranked) == 1 or depth(thing) - depth(view[ranked[1]]) >= _CORNER_BEFORE_NEXT
        return (ranked[0],) if clear else None

    return Claim(_article(dice, dice.pick(forms)), "corner", meaning)


def _ordinal(dice: Rng, described: Description) -> Claim:
    direction = dice.pick(("left", "right", "left", "right", "top", "bottom"))
    place = dice.weighted((75, 25)) + 1
    text = _FROM[direction].format(_ORDINALS[place - 1], format_description(dice, described))

    def meaning(view: View) -> Meaning | None:
        every = described.all_of(view)
        if every is None or len(every) <= place:
            return None
        ranked = sorted(every, key=lambda i: -towards(view[i], direction))
        return (ranked[place],) if _is_spread(view, ranked, direction) else None

    return Claim(_article(dice, text), "ordinal", meaning)


def _is_spread(view: View, ranked: list[int], direction: str) -> bool:
    """Whether every two neighbours in a ranking are clearly apart."""
    places = [towards(view[i], direction) for i in ranked]
    return all(a - b >= _ORDER_GAP for a, b in itertools.pairwise(places))


def _middle(dice: Rng, described: Description) -> Claim:
    def meaning(view: View) -> Meaning | None:
        every = described.all_of(view)
        if every is None or len(every) != 3:
            return None
        rows = [sorted(every, key=lambda i: towards(view[i], way)) for way in ("right", "bottom")]
        spreads = [
            towards(view[r[2]], w) - towards(view[r[0]], w)
            for r, w in zip(rows, ("right", "bottom"), strict=True)
        ]
        longer = 0 if spreads[0] >= spreads[1] else 1
        if rows[0][1] != rows[1][1] and spreads[longer] < 2 * spreads[1 - longer]:
            return None  # in the middle from left to right, but another one from top to bottom
        way = ("right", "bottom")[longer]
        return (rows[longer][1],) if _is_spread(view, rows[longer][::-1], way) else None

    wording = dice.pick(("middle {}", "{} in the middle"))
    return Claim(_article(dice, wording.format(format_description(dice, described))), "middle", meaning)


def _by_size(dice: Rng, described: Description) -> Claim:
    grows = dice.chance(0.5)
    compares = dice.chance(0.4)
    wording = dice.pick((_BIGGEST if grows else _SMALLEST)[int(compares)])
    sign = 1 if grows else -1

    def meaning(view: View) -> Meaning | None:
        sure, possible = described.tested(view)
        if len(possible) < 2 or (compares and len(possible) > 2):
            return None
        ranked = sorted(possible, key=lambda i: -sign * view[i].side)
        first, second = view[ranked[0]], view[ranked[1]]
        sides, areas = first.side / second.side, first.area / max(second.area, 1e-6)
        clear = min(sides**sign / _SIDE_RATIO, max(areas, 1e-6) ** sign / _AREA_RATIO) >= 1
        return (ranked[0],) if clear and ranked[0] in sure else None

    return Claim(_article(dice, wording.format(format_description(dice, described))), "size", meaning)


def _central(dice: Rng, described: Description) -> Claim:
    def meaning(view: View) -> Meaning | None:
        sure, possible = described.tested(view)
        away = {i: max(abs(view[i].x - 0.5), abs(view[i].y - 0.5)) for i in possible}
        near = [i for i in possible if away[i] < _CENTRE]
        alone = len(near) == 1 and all(away[i] > _NOT_CENTRE for i in possible if i not in near)
        return (near[0],) if alone and near[0] in sure else None

    wording = dice.pick(("{} in the center", "center {}", "{} in the centre", "central {}"))
    return Claim(_article(dice, wording.format(format_description(dice, described))), "center", meaning)
