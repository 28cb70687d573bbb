"""Phrases that mean several things (multi) or nothing at all (none)."""

from __future__ import annotations

from refseg.data.scenes.layout import held_out_pairs, people
from refseg.data.scenes.phrases.describe import (
    Claim,
    Description,
    Habits,
    Meaning,
    View,
    describe,
    format_description,
    noun_name,
)
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.vocabulary import COLOURS, NOUNS, SHAPES

_HABITS = Habits(group=0.3, anything=0.1, colour=0.35, texture=0.15, size=0.1)
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_RELATIONS = ("left of", "to the right of", "above", "below", "next to", "closest to")
_PLACES = (
    "left {}",
    "right {}",
    "{} on the left",
    "{} on the right",
    "top {}",
    "bottom {}",
    "leftmost {}",
    "biggest {}",
)


def say_several(dice: Rng, view: View) -> Claim | None:
    """Both Ns, the three Ns, all the red Ns, the A and the B."""
    if len(view) < 2:
        return None
    first = describe(dice, dice.pick(view), _HABITS)
    if dice.chance(0.3):
        return _two_kinds(dice, first, describe(dice, dice.pick(view), _HABITS))
    every = first.all_of(view)
    if every is None or len(every) < 2:
        return None
    return _one_kind(dice, first, len(every))


def _one_kind(dice: Rng, described: Description, count: int) -> Claim:
    words = format_description(dice, described, many=True)
    forms = [f"all the {words}", f"all {words}", f"the {words}"]
    if count in _NUMBERS:
        forms += [f"the {_NUMBERS[count]} {words}"] * 2
    if count == 2:
        forms += [f"both {words}"] * 2

    def meaning(view: View) -> Meaning | None:
        every = described.all_of(view)
        return tuple(every) if every is not None and len(every) == count else None

    return Claim(dice.pick(forms), "plural", meaning)


def _two_kinds(dice: Rng, first: Description, second: Description) -> Claim:
    def meaning(view: View) -> Meaning | None:
        one, other = first.only(view), second.only(view)
        return None if one is None or other is None or one == other else tuple(sorted((one, other)))

    return Claim(
        f"the {format_description(dice, first)} and the {format_description(dice, second)}", "pair", meaning
    )


def say_nothing(dice: Rng, view: View) -> Claim | None:
    """A noun, or a colour of a noun that is there, that nothing here answers to."""
    described = _say_absent(dice, view)
    if _is_held_out(described) or (described.colour >= 0 and described.name.sure <= people()):
        return None
    words = format_description(dice, described)
    form = dice.weighted((40, 30, 30))
    if form == 0:
        text, anchor = (f"the {words}" if dice.chance(0.4) else words), None
    elif form == 1:
        text, anchor = dice.pick(_PLACES).format(words), None
    else:
        anchor = describe(dice, dice.pick(view), Habits(colour=0.35, anything=0.0))
        text = f"the {words} {dice.pick(_RELATIONS)} the {format_description(dice, anchor)}"

    def meaning(now: View) -> Meaning | None:
        if anchor is not None and anchor.only(now) is None:
            return None
        return () if not any(described.possible(thing) for thing in now) else None

    return Claim(text, "nothing", meaning)


def _is_held_out(described: Description) -> bool:
    """Whether training never shows it: said only of nothing, the pair would come to mean nothing."""
    pairs = {(noun, described.colour) for noun in described.name.sure}
    return len(pairs) == 1 and pairs <= held_out_pairs()


def _say_absent(dice: Rng, view: View) -> Description:
    """A description that is likely to fit nothing: a known noun in another colour, or any noun."""
    model = dice.pick(view)
    if dice.chance(0.45):
        described = describe(dice, model, Habits(group=0.1, anything=0.1))
        colour = dice.below(len(COLOURS))
        return Description(described.name, colour)
    only_shapes = all(NOUNS[thing.noun] in SHAPES for thing in view)
    first = len(NOUNS) - len(SHAPES)
    noun = first + dice.below(len(SHAPES)) if only_shapes or dice.chance(0.15) else dice.below(len(NOUNS))
    colour = dice.below(len(COLOURS)) if dice.chance(0.3) else -1
    return Description(noun_name(dice, noun), colour)
