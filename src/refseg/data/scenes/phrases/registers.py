"""The registers: which kind of phrase is said of a scene, and which things it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refseg.data.scenes.motion import say_motion
from refseg.data.scenes.phrases.describe import Claim, Meaning, View
from refseg.data.scenes.phrases.location import say_appearance, say_location
from refseg.data.scenes.phrases.relation import say_relation
from refseg.data.scenes.phrases.several import say_nothing, say_several
from refseg.data.scenes.rng import Rng

Registers = tuple[tuple[str, float], ...]
"""Names of registers with their shares."""

_MAKERS: dict[str, Callable[[Rng, View], Claim | None]] = {
    "loc": say_location,
    "app": say_appearance,
    "rel": say_relation,
    "multi": say_several,
    "none": say_nothing,
    "mot": say_motion,
}
REGISTERS: tuple[str, ...] = tuple(_MAKERS)
_TRIES = {"loc": 30, "app": 20, "rel": 40, "multi": 30, "none": 20, "mot": 20}
SECOND_NOUN = {"mot": "mot2"}
"""Register of a phrase whose bare noun fits two things or more, so that the noun alone does not tell which is meant."""

_INSTEAD = ("app", "loc")  # where nothing that was asked for can be said


@dataclass(frozen=True, slots=True)
class Said:
    """One phrase, its kind, and the things it means (numbers from 0; none = nothing here)."""

    text: str
    register: str
    template: str
    meaning: Meaning


def say(dice: Rng, views: Sequence[View], registers: Registers, count: int) -> list[Said]:
    """So many phrases about a scene, all different where it has enough to say.

    A register that finds nothing true and unambiguous gives way to another one that was asked for, and at last to
    "app" or "loc"; phrases are repeated only when all of them fail. Empty when this scene has nothing to say at all.
    """
    names, shares = [name for name, _ in registers], [share for _, share in registers]
    said: list[Said] = []
    while len(said) < count:
        first = names[dice.weighted(shares)]
        others = [name for name in names if name not in (first, "none")]
        known = {one.text for one in said}
        found = _say_first(dice, views, (first, *others, *_INSTEAD), known)
        found = found or _say_first(dice, views, (*names, *_INSTEAD), set())
        if found is None:
            return []
        said.append(found)
    return said


def _say_first(dice: Rng, views: Sequence[View], names: Sequence[str], known: set[str]) -> Said | None:
    """A phrase of the first register that has one."""
    return next(filter(None, (_say_one(dice, views, name, known) for name in names)), None)


def _say_one(dice: Rng, views: Sequence[View], register: str, known: set[str]) -> Said | None:
    """A phrase that means the same things in every frame."""
    make = _MAKERS[register]
    for _ in range(_TRIES[register]):
        claim = make(dice, views[0])
        if claim is None or claim.text in known:
            continue
        meaning = claim.meaning(views[0])
        if meaning is not None and all(claim.meaning(view) == meaning for view in views[1:]):
            return Said(claim.text, _describe(register, claim, views[0]), claim.template, meaning)
    return None


def _describe(register: str, claim: Claim, view: View) -> str:
    if claim.name is None or sum(thing.noun in claim.name.possible for thing in view) < 2:
        return register
    return SECOND_NOUN.get(register, register)
