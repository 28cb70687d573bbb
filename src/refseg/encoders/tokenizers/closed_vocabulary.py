"""Closed vocabularies: the words of a small world, and what to say to a word from outside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from refseg.errors import InvalidInput, nearest

PADDING = 0  # id of the padding token; word n of the list has id n + 1
ARTICLES = frozenset({"a", "an", "the"})
REQUESTS = frozenset(
    {"please", "show", "find", "segment", "highlight", "select", "me", "this", "my", "there", "is"}
)
PICTURES = frozenset(
    {"picture", "photo", "photograph", "image", "drawing"}
)  # "picture of a dog" asks for the dog


class ClosedVocabulary:
    """A list of known words: phrases to ids, and a refusal that names what is not known.

    Phrases become lower-case and split where letters and digits end. Articles always, and words of courtesy that the
    vocabulary lacks, are left out silently.
    """

    def __init__(self, words: Sequence[str], *, max_tokens: int) -> None:
        self.words = tuple(words)
        self.max_tokens = max_tokens
        self._ids = {word: index for index, word in enumerate(self.words, start=PADDING + 1)}

    def __len__(self) -> int:
        """How many ids there are, padding included."""
        return len(self.words) + 1

    def split(self, phrase: str) -> list[str]:
        """The words of a phrase that carry meaning here.

        Raises:
            InvalidInput: if nothing is left, a word is unknown, or there are more than `max_tokens`.
        """
        spelled = re.findall(r"[^\W_]+", phrase.lower())
        words = self._without_fillers(spelled)
        if not words:
            nothing = "is empty" if not phrase.strip() else "holds no word"
            held = nothing if not spelled else f"is empty but for {' '.join(spelled)!r}"
            raise InvalidInput(f"the phrase {phrase!r} {held}; say what to look for, such as 'the red star'")
        self._refuse_unknown(phrase, words)
        if len(words) > self.max_tokens:
            raise InvalidInput(
                f"the phrase {phrase!r} has {len(words)} words, and at most {self.max_tokens} are read; shorten it"
            )
        return words

    def encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [P, L] int64 and valid [P, L] bool, padded to the longest phrase.

        Raises:
            InvalidInput: as `split` does.
        """
        rows = [[self._ids[word] for word in self.split(phrase)] for phrase in phrases]
        length = max((len(row) for row in rows), default=1)
        ids = torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), length)
        return ids, ids != PADDING

    def _without_fillers(self, words: Sequence[str]) -> list[str]:
        kept: list[str] = []
        skips_of = False
        for word in words:
            known = word in self._ids
            if word in ARTICLES or (word in REQUESTS and not known) or (skips_of and word == "of"):
                skips_of = False
                continue
            skips_of = word in PICTURES and not known
            if not skips_of:
                kept.append(word)
        return kept

    def _refuse_unknown(self, phrase: str, words: Sequence[str]) -> None:
        unknown = [word for word in dict.fromkeys(words) if word not in self._ids]
        if not unknown:
            return
        told = "; ".join(f"{word!r} (nearest known: {self._suggest(word)})" for word in unknown)
        raise InvalidInput(
            f"the phrase {phrase!r} uses words outside the {len(self.words)} that this model knows: {told}; "
            "say it with known words"
        )

    def _suggest(self, word: str) -> str:
        return ", ".join(nearest(word, self.words)) or "none"
