"""Longer phrases: a thing by its relation to others (rel)."""

from __future__ import annotations

import math

from refseg.data.scenes.layout import Thing
from refseg.data.scenes.phrases.describe import (
    Claim,
    Description,
    Habits,
    Meaning,
    View,
    describe,
    format_description,
)
from refseg.data.scenes.rng import Rng

_HABITS = Habits(group=0.12, anything=0.12, colour=0.35, texture=0.12, size=0.12)

_BESIDE, _NEAREST, _FARTHEST, _BETWEEN, _OVERLAPPING = range(5)
_NEEDLESS_REFUSED = 0.5  # of the phrases whose first description would do alone

# Margins, as fractions of the picture's side.
_SURE_AWAY, _SURE_SLOPE = 0.13, 1.0  # 45 degrees
_POSSIBLE_AWAY, _POSSIBLE_SLOPE = 0.02, 2.2
_NEAR_RATIO, _NEAR_MARGIN = 1.4, 0.03
_NEXT_TO = 0.42  # a lone candidate further away is not "next to"
_BETWEEN_SURE, _BETWEEN_SURE_OFF = (
    (0.22, 0.78),
    0.28,
)  # along the segment, and off it by this share of its length
_BETWEEN_POSSIBLE, _BETWEEN_POSSIBLE_OFF = (0.08, 0.92), 0.5
_TOUCH, _MAYBE_TOUCH, _COVERED = 0.40, 0.62, 0.93  # centres closer than this share of both sides

_SIDE_WORDS = {
    "left": ("left of", "to the left of", "on the left side of", "on the left of"),
    "right": ("right of", "to the right of", "on the right side of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
_NEAREST_WORDS = ("closest to", "nearest to", "next to", "beside", "near")
_SUPERLATIVE = frozenset({"closest to", "nearest to"})
_FARTHEST_WORDS = ("farthest from", "farthest away from", "furthest from")


def say_relation(dice: Rng, view: View) -> Claim | None:
    """One of the relational phrases, about things that are there."""
    kind = dice.weighted((44, 20, 10, 16, 10))
    target, *others = _cast(dice, view, kind)
    if not others:
        return None
    first, second, *rest = (describe(dice, view[i], _HABITS) for i in (target, *others))
    if first.only(view) is not None and dice.chance(_NEEDLESS_REFUSED):
        return None
    if kind == _BETWEEN:
        return _between(dice, first, second, rest[0])
    if kind in (_NEAREST, _FARTHEST):
        return (_nearest if kind == _NEAREST else _farthest)(dice, first, second)
    if kind == _OVERLAPPING:
        return _overlapping(dice, first, second, is_front=target > others[0])
    return _beside(dice, first, second, _side_of(view[target], view[others[0]]))


def _cast(dice: Rng, view: View, kind: int) -> list[int]:
    """Things for the roles of a relation, the one that is meant first; alone when it is in no such relation."""
    target = dice.below(len(view))
    rest = [i for i in range(len(view)) if i != target]
    if kind == _BETWEEN:
        pairs = [
            [one, other]
            for one in rest
            for other in rest
            if one != other
            and is_between(view[target], view[one], view[other], _BETWEEN_SURE, _BETWEEN_SURE_OFF)
        ]
        return [target, *dice.pick(pairs)] if pairs else [target]
    if kind == _OVERLAPPING:
        rest = [i for i in rest if _touches(view[target], view[i], _TOUCH)]
    return [target, dice.pick(rest)] if rest else [target]


def _touches(one: Thing, other: Thing, reach: float) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) < reach * (one.side + other.side)


def lies(thing: Thing, side: str, other: Thing, away: float, slope: float) -> bool:
    """Whether a thing lies on a side of another: far enough, and not too far off the axis."""
    right, down = thing.x - other.x, thing.y - other.y
    along, off = (right, down) if side in ("left", "right") else (down, right)
    if side in ("left", "above"):
        along = -along
    return along >= away and abs(off) <= slope * along


def _phrase(dice: Rng, first: Description, relation: str, rest: str) -> str:
    linked = f"that is {relation}" if dice.chance(0.35) else relation
    return f"the {format_description(dice, first)} {linked} {rest}"


def _side_of(thing: Thing, other: Thing) -> str:
    right, down = thing.x - other.x, thing.y - other.y
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "below" if down > 0 else "above"


def _beside(dice: Rng, first: Description, second: Description, side: str) -> Claim:
    text = _phrase(dice, first, dice.pick(_SIDE_WORDS[side]), f"the {format_description(dice, second)}")

    def meaning(view: View) -> Meaning | None:
        anchor = second.only(view)
        if anchor is None:
            return None
        other = view[anchor]
        candidates = [i for i, t in enumerate(view) if i != anchor and first.possible(t)]
        found = [i for i in candidates if lies(view[i], side, other, _POSSIBLE_AWAY, _POSSIBLE_SLOPE)]
        if len(found) != 1 or not first.sure(view[found[0]]):
            return None
        return (found[0],) if lies(view[found[0]], side, other, _SURE_AWAY, _SURE_SLOPE) else None

    return Claim(text, f"relation {side}", meaning)


def _ranked_by_distance(view: View, described: Description, anchor: int) -> list[tuple[float, int]]:
    other = view[anchor]
    return sorted(
        (math.hypot(t.x - other.x, t.y - other.y), i)
        for i, t in enumerate(view)
        if i != anchor and described.possible(t)
    )


def _nearest(dice: Rng, first: Description, second: Description) -> Claim:
    wording = dice.pick(_NEAREST_WORDS)
    superlative = wording in _SUPERLATIVE

    def meaning(view: View) -> Meaning | None:
        anchor = second.only(view)
        ranked = [] if anchor is None else _ranked_by_distance(view, first, anchor)
        if not ranked or not first.sure(view[ranked[0][1]]) or (superlative and len(ranked) == 1):
            return None
        distance, found = ranked[0]
        if not superlative and distance > _NEXT_TO:
            return None
        clear = len(ranked) == 1 or ranked[1][0] >= distance * _NEAR_RATIO + _NEAR_MARGIN
        return (found,) if clear else None

    text = _phrase(dice, first, wording, f"the {format_description(dice, second)}")
    return Claim(text, "nearest", meaning)


def _farthest(dice: Rng, first: Description, second: Description) -> Claim:
    def meaning(view: View) -> Meaning | None:
        anchor = second.only(view)
        ranked = [] if anchor is None else _ranked_by_distance(view, first, anchor)
        if len(ranked) < 2 or not first.sure(view[ranked[-1][1]]):
            return None
        clear = ranked[-1][0] >= ranked[-2][0] * _NEAR_RATIO + _NEAR_MARGIN
        return (ranked[-1][1],) if clear else None

    text = _phrase(dice, first, dice.pick(_FARTHEST_WORDS), f"the {format_description(dice, second)}")
    return Claim(text, "farthest", meaning)


def is_between(thing: Thing, one: Thing, other: Thing, span: tuple[float, float], off: float) -> bool:
    """Whether a thing lies along the segment from one to the other, and not too far off it."""
    dx, dy = other.x - one.x, other.y - one.y
    length = dx * dx + dy * dy
    along = ((thing.x - one.x) * dx + (thing.y - one.y) * dy) / length
    across = abs((thing.x - one.x) * dy - (thing.y - one.y) * dx) / length
    return span[0] <= along <= span[1] and across <= off


def _between(dice: Rng, first: Description, second: Description, third: Description) -> Claim:
    is_pair = dice.chance(0.3)
    if is_pair:
        rest = f"the two {format_description(dice, second, many=True)}"
    else:
        rest = f"the {format_description(dice, second)} and the {format_description(dice, third)}"

    def ends(view: View) -> list[int] | None:
        if is_pair:
            every = second.all_of(view)
            return every if every is not None and len(every) == 2 else None
        one, other = second.only(view), third.only(view)
        return None if one is None or other is None or one == other else [one, other]

    def meaning(view: View) -> Meaning | None:
        pair = ends(view)
        if pair is None:
            return None
        one, other = view[pair[0]], view[pair[1]]
        if (one.x - other.x) ** 2 + (one.y - other.y) ** 2 < 0.04:
            return None
        rest = [i for i, t in enumerate(view) if i not in pair and first.possible(t)]
        found = [i for i in rest if is_between(view[i], one, other, _BETWEEN_POSSIBLE, _BETWEEN_POSSIBLE_OFF)]
        if len(found) != 1 or not first.sure(view[found[0]]):
            return None
        sure = is_between(view[found[0]], one, other, _BETWEEN_SURE, _BETWEEN_SURE_OFF)
        return (found[0],) if sure else None

    wording = dice.pick(("between", "in between", "in the middle between"))
    return Claim(_phrase(dice, first, wording, rest), "between", meaning)


def _overlapping(dice: Rng, first: Description, second: Description, *, is_front: bool) -> Claim:
    relation = "in front of" if is_front else "behind"

    def meaning(view: View) -> Meaning | None:
        anchor = second.only(view)
        if anchor is None:
            return None
        on_side = [
            i for i in range(len(view)) if i != anchor and (i > anchor) == is_front
        ]  # later = in front
        found = [
            i for i in on_side if first.possible(view[i]) and _touches(view[i], view[anchor], _MAYBE_TOUCH)
        ]
        if (
            len(found) != 1
            or not first.sure(view[found[0]])
            or not _touches(view[found[0]], view[anchor], _TOUCH)
        ):
            return None
        lower = view[min(found[0], anchor)]
        return (found[0],) if lower.visible < _COVERED else None

    return Claim(
        _phrase(dice, first, relation, f"the {format_description(dice, second)}"), "front or behind", meaning
    )
