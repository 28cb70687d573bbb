"""English words cut into the tokens that word vectors know, as the blank English pipeline of spaCy 2.3 cuts them.

Word vectors were looked up through that pipeline when the published models were trained. Left out are smileys, which
it keeps whole, and runs such as `a.,b`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

_PUNCTUATION = "…,:;!?()[]{}<>_#*&"
_QUOTES = "'\"`" + "\u201d\u201c\u2018\u00b4\u2019\u201a\u201e\u00bb\u00ab"
_CURRENCY = "$£€¥"
_DASHES = "\u2013\u2014"
_UNITS = [
    "km",
    "m",
    "dm",
    "cm",
    "mm",
    "ha",
    "nm",
    "yd",
    "in",
    "ft",
    "kg",
    "g",
    "mg",
    "t",
    "lb",
    "oz",
    "m/s",
    "km/h",
    "kmh",
    "mph",
    "hPa",
    "Pa",
    "mbar",
    "mb",
    "kb",
    "gb",
    "tb",
    "MB",
    "KB",
    "GB",
    "TB",
    "T",
    "G",
    "M",
    "K",
    "%",
]


def _any_of(characters: str) -> str:
    return "[" + re.escape(characters) + "]"


_LETTER = r"[^\W\d_]"
_PREFIX = re.compile(
    "|".join([r"\.\.+", _any_of(_PUNCTUATION + _QUOTES + _CURRENCY + "%=§" + _DASHES), r"\+(?![0-9])"])
)
_SUFFIX = re.compile(
    "(?:"
    + "|".join(
        [
            r"\.\.+",
            r"['\u2019][sS]",
            _any_of(_PUNCTUATION + _QUOTES + _DASHES),
            r"(?<=[0-9])\+",
            rf"(?<=[0-9]){_any_of(_CURRENCY)}",
            rf"(?<=[0-9])(?:{'|'.join(map(re.escape, _UNITS))})",
            rf"(?<={_any_of('0123456789%+-' + _PUNCTUATION + _QUOTES)})\.",
        ]
    )
    + r")\Z"
)
_HOST = re.compile(
    r"(?:[a-z]{2,}://)?(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.)+([^\W\d_]{2,63})(?::\d{2,5})?(?:[/?#]\S*)?",
    re.IGNORECASE,
)
_INFIX = re.compile(
    "|".join(
        [
            r"\.\.+|…",
            r"(?<=[0-9])[+\-*^](?=[0-9-])",
            rf"(?<=(?:{_LETTER}|{_any_of(_QUOTES)}))\.(?=(?:{_LETTER}|{_any_of(_QUOTES)}))",
            rf"(?<={_LETTER}),(?={_LETTER})",
            rf"(?<={_LETTER})(?:-|{_any_of(_DASHES)}|--|---|\u2014\u2014|~)(?={_LETTER})",
            rf"(?<=(?:{_LETTER}|[0-9]))[:<>=/](?={_LETTER})",
        ]
    )
)

_SPLIT_AFTER = (
    ("i", "m ve ll d"),
    ("you we they", "re ve ll d"),
    ("he she", "s ll d"),
    ("it", "ll d"),
    ("who what when where why how there that this these those", "s ll re ve d"),
)
_NOT = "ca could do does did had may might must need ought sha should wo would"
_NOT_ALONE = "ai are is was were have has dare"
_HAVE = "could might must should would not"
_WHOLE_WITHOUT_APOSTROPHE = frozenset(
    ["its", "ill", "hell", "shell", "shed", "were", "well", "lets", "whore"]
)
_OTHER_SPLITS = [
    "can not",
    "gon na",
    "got ta",
    "i m a",
    "let 's",
    "it 's",
    "y' all",
    "y all",
    "c'm on",
]  # each with a space where it is cut
_WHOLE = [
    "''",
    "a.m.",
    "p.m.",
    "i.e.",
    "e.g.",
    "v.s.",
    "vs.",
    "co.",
    "w/o",
    "and/or",
    "o'clock",
    "ma'am",
    "'em",
    "'cause",
    "'cos",
    "'cuz",
    "'bout",
    "'nuff",
    "ol'",
    "goin'",
    "doin'",
    "lovin'",
    "havin'",
    "nothin'",
    "somethin'",
]
_ABBREVIATIONS = [
    "Adm.",
    "Bros.",
    "Corp.",
    "D.C.",
    "Dr.",
    "E.G.",
    "Gen.",
    "Gov.",
    "I.E.",
    "Inc.",
    "Jr.",
    "Ltd.",
    "Messrs.",
    "Mr.",
    "Mrs.",
    "Ms.",
    "Mt.",
    "Ph.D.",
    "Prof.",
    "Rep.",
    "Rev.",
    "Sen.",
    "St.",
    "Jan.",
    "Feb.",
    "Mar.",
    "Apr.",
    "May.",
    "Jun.",
    "Jul.",
    "Aug.",
    "Sep.",
    "Sept.",
    "Oct.",
    "Nov.",
    "Dec.",
    "Ala.",
    "Ariz.",
    "Ark.",
    "Calif.",
    "Colo.",
    "Conn.",
    "Del.",
    "Fla.",
    "Ga.",
    "Ia.",
    "Id.",
    "Ill.",
    "Ind.",
    "Kan.",
    "Kans.",
    "Ky.",
    "La.",
    "Mass.",
    "Md.",
    "Mich.",
    "Minn.",
    "Miss.",
    "Mo.",
    "Mont.",
    "N.C.",
    "N.D.",
    "N.H.",
    "N.J.",
    "N.M.",
    "N.Y.",
    "Neb.",
    "Nebr.",
    "Nev.",
    "Okla.",
    "Ore.",  # codespell:ignore ore
    "Pa.",
    "S.C.",
    "Tenn.",
    "Va.",
    "Wash.",
    "Wis.",
]


def words_of(phrase: str) -> list[str]:
    """The words of a phrase: what stands between white space, as it is written."""
    return phrase.split()


@lru_cache(maxsize=65536)
def tokens_of(word: str) -> tuple[str, ...]:
    """The tokens of one word without white space; their letters together are the word's."""
    exceptions = _exceptions()
    if word in exceptions:
        return exceptions[word]
    before, rest, after = _stripped(word)
    if not rest:
        return (*before, *after)
    return (*before, *_split(rest), *after)


def _stripped(word: str) -> tuple[list[str], str, list[str]]:
    """Prefixes in order, what is left, and suffixes in order.

    One of each is taken off at a time, both found in the same string; where they overlap, the prefix alone.
    """
    exceptions = _exceptions()
    before: list[str] = []
    after: list[str] = []
    while word and word not in exceptions:
        start, end = _prefix_length(word), _suffix_length(word)
        if start and word[start:] in exceptions:
            end = 0
        elif end and word[: len(word) - end] in exceptions:
            start = 0
        elif start and start + end > len(word):
            end = 0
        if not start and not end:
            break
        before += [word[:start]] if start else []
        after += [word[len(word) - end :]] if end else []
        word = word[start : len(word) - end]
    return before, word, after[::-1]


def _prefix_length(word: str) -> int:
    found = _PREFIX.match(word)
    return found.end() if found else 0


def _suffix_length(word: str) -> int:
    found = _SUFFIX.search(word)
    if found:
        return len(word) - found.start()
    return int(word.endswith(".") and _ends_a_word(word[:-1]))


def _ends_a_word(word: str) -> bool:
    """Whether a full stop after `word` stands alone: after a lower-case letter, or after two capitals."""
    return word[-1:].islower() or (len(word) > 1 and word[-2:].isalpha() and word[-2:].isupper())


def _split(rest: str) -> tuple[str, ...]:
    """What is left of a word without prefixes and suffixes, around its infixes; pieces are not looked at again."""
    exceptions = _exceptions()
    if rest in exceptions:
        return exceptions[rest]
    host = _HOST.fullmatch(rest)
    if host and host.group(1).islower():
        return (rest,)
    pieces, start = [], 0
    for found in _INFIX.finditer(rest):
        if found.start() == start or not _is_infix(rest, found):
            continue
        pieces += [rest[start : found.start()], found.group()]
        start = found.end()
    return (*pieces, *([rest[start:]] if start < len(rest) else []))


def _is_infix(rest: str, found: re.Match[str]) -> bool:
    """A single full stop ends a sentence only between a small letter (or quote) and a capital (or quote)."""
    if found.group() != ".":
        return True
    before, after = rest[found.start() - 1], rest[found.end()]
    return (before.islower() or before in _QUOTES) and (after.isupper() or after in _QUOTES)


@lru_cache(maxsize=1)
def _exceptions() -> dict[str, tuple[str, ...]]:
    """Words that are cut, or kept whole, as a list says: as they stand there, and with a capital first letter."""
    listed = [*_contractions(), *(tuple(text.split()) for text in _OTHER_SPLITS), *((w,) for w in _WHOLE)]
    listed += [(f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz"]
    listed += [(str(n), half) for n, half in product(range(1, 13), ("am", "pm", "a.m.", "p.m."))]
    told = {"".join(pieces): pieces for pieces in listed}
    for pieces in listed:
        first = pieces[0][0].upper() + pieces[0][1:]
        told.setdefault("".join((first, *pieces[1:])), (first, *pieces[1:]))
    return told | {word: (word,) for word in _ABBREVIATIONS}


def _contractions() -> list[tuple[str, ...]]:
    """Every contraction with and without its apostrophes, but for those that are words of their own without."""
    found: list[tuple[str, ...]] = []
    for subjects, endings in _SPLIT_AFTER:
        for subject, ending in product(subjects.split(), endings.split()):
            found.append((subject, ending))
            found += [(subject, ending, "ve")] if ending in ("ll", "d") else []
    found += [(verb, "nt") for verb in f"{_NOT} {_NOT_ALONE}".split()]
    found += [(verb, "nt", "ve") for verb in _NOT.split()]
    found += [(verb, "ve") for verb in _HAVE.split()]
    plain = [pieces for pieces in found if "".join(pieces) not in _WHOLE_WITHOUT_APOSTROPHE]
    return plain + [(first, *map(_with_apostrophe, rest)) for first, *rest in found]


def _with_apostrophe(piece: str) -> str:
    return "n't" if piece == "nt" else f"'{piece}"
