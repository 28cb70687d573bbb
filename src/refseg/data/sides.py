"""Words that say a side, exchanged when a picture is mirrored."""

from __future__ import annotations

import re

# As a whole word, before an ending or a hyphen, or after a place word written together: left, leftmost, left-hand,
# lefthand, lefty, leftie, topleft, bottom-right.
_SIDE = re.compile(
    r"\b(?P<before>(?:top|bottom|upper|lower|far|front|back|mid|middle|cent(?:er|re)|very)?)(?P<side>left|right)"
    r"(?=(?:most|er|ish|y|ie|ies|wards?|hand(?:ed|er)?|side|center|middle|-\w+)?\b)",
    re.IGNORECASE,
)
# Where the same letters say no side.
_NO_SIDE = re.compile(
    r"\bleft[ -]?overs?\b|\bleft (?:behind|alone|out|open|blank|empty|unattended)\b|\b(?:has|have|had|just|recently) left\b"
    r"|\ball[ -]right\b|\balright\b"
    r"|\bright (?:now|away|angles?|angled|here|there|before|after|next|beside|behind|under|above|below|in front|side up"
    r"|way up|of way)\b"
    r"|\bright-(?:angled?|away|side-up|of-way)\b|\b(?:that'?s|is that|just|not) right$",
    re.IGNORECASE,
)


def swap_sides(phrase: str) -> str:
    """The phrase for the mirrored picture: left becomes right, "leftmost" becomes "rightmost", and back.

    Words that hold the letters and mean no side ("left over", "all right", "right behind", "bright") stay.
    """
    kept = [match.span() for match in _NO_SIDE.finditer(phrase)]

    def exchange(match: re.Match[str]) -> str:
        if any(start < match.end() and match.start() < end for start, end in kept):
            return match.group()
        return match["before"] + _other(match["side"])

    return _SIDE.sub(exchange, phrase)


def _other(side: str) -> str:
    other = "right" if side.lower() == "left" else "left"
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other
