"""The words of the scenes world: nouns, colours, what a word covers, and the closed vocabulary of its phrases.

A word is tested twice: it covers some nouns for sure, and some more for a generous listener. A phrase is only said
when both tests agree on what it means.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from refseg.data.scenes.nouns import ALL_NOUNS, ALMOST, GROUPS, plural_of, regular_plural

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
