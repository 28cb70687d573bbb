"""Phrases to the ids of BERT's uncased word pieces, by the rules of the tokenizer that LGFormer and LAVT carry with them.

Those rules differ from today's hub tokenizer: control characters, zero-width characters, U+0000 and U+FFFD are kept,
inside their words. And the length is fixed: a longer phrase is cut, and so loses its [SEP]; a shorter one is padded.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence

from refseg.encoders.tokenizers.tokens import cached_tokenizer, check_phrases, missing_tokenizer, pad_ids
from refseg.errors import InvalidInput
from refseg.structures import TextTokens

LETTERS = "letters"  # the vocabulary that needs no file: every printable ASCII character, and its ## form
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIALS = (PAD, UNKNOWN, START, END, "[MASK]")
LONGEST_WORD = 100  # characters; a longer one is unknown
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_IDEOGRAPH = re.compile("([" + "".join(f"{chr(first)}-{chr(last)}" for first, last in IDEOGRAPHS) + "])")
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")


class WordPieceTokenizer:
    """Token ids of phrases, all of one length; the vocabulary is looked for when the first phrase comes."""

    def __init__(self, name: str, *, length: int, vocabulary: int) -> None:
        self.name = name
        self.length = length
        self.vocabulary = vocabulary  # how many ids the model knows
        self._text: str | None = None
        self._ids: dict[str, int] | None = None

    @property
    def text(self) -> str | None:
        """The vocabulary as a `tokenizer.json`, where it has been given or found; None otherwise."""
        if self._text is None:
            self._text = letters_vocabulary() if self.name == LETTERS else cached_tokenizer(self.name)
        return self._text

    def take(self, text: str) -> None:
        """Uses `text`, the content of a `tokenizer.json` or of a `vocab.txt`.

        Raises:
            InvalidInput: if it is neither, or does not fit the model.
        """
        ids = _vocabulary_of(text)
        if len(ids) > self.vocabulary:
            raise InvalidInput(
                f"the vocabulary has {len(ids)} entries and the model knows {self.vocabulary}; give the tokenizer "
                f"that the weights were trained with ({self.name})"
            )
        self._ids = ids
        self._text = text if text.lstrip().startswith("{") else _as_json(ids)

    def __call__(self, phrases: Sequence[str]) -> TextTokens:
        """Ids [P, length], on the CPU.

        Raises:
            InvalidInput: if a phrase is empty, or no vocabulary is at hand.
        """
        check_phrases(phrases)
        return self.encode(phrases)

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """The same for any texts, empty ones too: those are [CLS] [SEP]."""
        rows = [self.ids(text)[: self.length] for text in texts]
        return pad_ids(rows, self._loaded()[PAD], self.length)

    def pieces(self, phrase: str) -> list[str | None]:
        """What each token that is read of a phrase stands for; None for the start and the end."""
        known = self._loaded()
        told = [piece.removeprefix("##") for word in _words(phrase) for piece in _pieces(word, known)]
        return [None, *told, None][: self.length]

    def ids(self, text: str) -> list[int]:
        """All ids of a text between [CLS] and [SEP], however many."""
        known = self._loaded()
        pieces = [piece for word in _words(text) for piece in _pieces(word, known)]
        return [known[piece] for piece in (START, *pieces, END)]

    def _loaded(self) -> dict[str, int]:
        if self._ids is None:
            text = self.text
            if text is None:
                raise missing_tokenizer(self.name)
            self.take(text)
        assert self._ids is not None
        return self._ids


def letters_vocabulary() -> str:
    """The `tokenizer.json` of a vocabulary of single characters."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters)]
    return _as_json({token: number for number, token in enumerate(tokens)})


def word_vocabulary(words: Sequence[str]) -> str:
    """The `tokenizer.json` of a vocabulary that gives each of `words` one token, as BERT's gives common words."""
    return _as_json({token: number for number, token in enumerate((*SPECIALS, *words))})


LETTERS_VOCABULARY = len(SPECIALS) + 2 * len(string.ascii_lowercase + string.digits + string.punctuation)


def _words(text: str) -> Iterator[str]:
    """Special tokens as they are; between them, words in lower case without accents, and punctuation marks alone."""
    for number, part in enumerate(_SPECIAL.split(text)):
        if number % 2:  # what the pattern found
            yield part
            continue
        for word in _IDEOGRAPH.sub(r" \1 ", part).split():
            plain = unicodedata.normalize("NFD", word.lower())
            yield from _split_at_punctuation("".join(c for c in plain if unicodedata.category(c) != "Mn"))


def _split_at_punctuation(word: str) -> Iterator[str]:
    start = 0
    for place, character in enumerate(word):
        if _is_punctuation(character):
            if place > start:
                yield word[start:place]
            yield character
            start = place + 1
    if start < len(word):
        yield word[start:]


def _is_punctuation(character: str) -> bool:
    # ASCII symbols such as $ and ^ count, though Unicode has them in other categories.
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _pieces(word: str, known: dict[str, int]) -> list[str]:
    """The longest known piece from the left, then the longest that continues it; [UNK] if anything is left over."""
    if word in SPECIALS:
        return [word]
    if len(word) > LONGEST_WORD:
        return [UNKNOWN]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        found = next((end for end in ends if prefix + word[start:end] in known), None)
        if found is None:
            return [UNKNOWN]
        pieces.append(prefix + word[start:found])
        start = found
    return pieces


def _vocabulary_of(text: str) -> dict[str, int]:
    ids = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    lacking = [token for token in SPECIALS if token not in ids]
    if lacking:
        raise InvalidInput(
            f"the tokenizer text is no vocabulary of BERT word pieces: it lacks {', '.join(lacking)}; give the "
            "tokenizer.json or vocab.txt of bert-base-uncased"
        )
    return ids


def _from_lines(text: str) -> dict[str, int]:
    lines = text.removesuffix("\n").split("\n")
    return {line.removesuffix("\r"): number for number, line in enumerate(lines)}


def _from_json(text: str) -> dict[str, int]:
    try:
        file = json.loads(text)
        ids = {str(token): int(number) for token, number in file["model"]["vocab"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise InvalidInput(
            f"the tokenizer text is not the tokenizer.json of a word-piece tokenizer ({cause!r}); give that of "
            "bert-base-uncased"
        ) from cause
    if (file.get("normalizer") or {}).get("lowercase") is False:
        raise InvalidInput(
            "the tokenizer keeps upper case; give that of the uncased BERT (bert-base-uncased)"
        )
    return ids


def _as_json(ids: dict[str, int]) -> str:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((END, ids[END]), (START, ids[START]))
    return str(tokenizer.to_str())
