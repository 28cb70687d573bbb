"""Phrases to CLIP's token ids: byte pairs of lower-cased words, between a start and an end token.

The vocabulary is text and arrives with a checkpoint, or lies in the Hugging Face cache, or comes with an installed
package of CLIP. It is taken in any of the forms in which it is published: a `tokenizer.json`, a `merges.txt` (what `vocab.json` says follows from it), or OpenAI's
`bpe_simple_vocab_16e6.txt`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.encoders.tokenizers.text_repair import repair
from refseg.encoders.tokenizers.tokens import (
    BYTES,
    cached_tokenizer,
    check_phrases,
    missing_tokenizer,
    pad_ids,
    parse_tokenizer,
    phrase_too_long,
)
from refseg.errors import InvalidInput
from refseg.structures import TextTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
NUM_MERGES = 48894  # CLIP's own; the published file goes on, and what follows is not used
CLIP_VOCABULARY = 2 * 256 + NUM_MERGES + 2
CLIP_BYTES_VOCABULARY = 2 * 256 + 2  # of the tokenizer BYTES, which needs no file
PACKAGES = ("clip", "open_clip")  # they carry PACKED; nothing of them is imported
PACKED = "bpe_simple_vocab_16e6.txt.gz"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIALS = re.compile(f"({re.escape(START)}|{re.escape(END)})")


class ClipTokenizer:
    """Ids of phrases; the vocabulary is looked for when the first phrase comes.

    A phrase longer than `max_tokens`, start and end included, is refused, or with `truncates` loses the words before its
    end token. Rows are padded with the end token, to `max_tokens` with `fills`, else to the longest; `valid` tells padding
    from the end, which the ids do not.
    """

    def __init__(self, name: str, *, max_tokens: int, truncates: bool = False, fills: bool = False) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self.truncates = truncates
        self.fills = fills
        self._text: str | None = None
        self._tokenizer: Tokenizer | None = None

    @property
    def text(self) -> str | None:
        """The tokenizer as a `tokenizer.json`, where it has been given or found; None otherwise."""
        if self._text is None:
            self._text = (
                clip_byte_tokenizer()
                if self.name == BYTES
                else cached_tokenizer(self.name) or installed_tokenizer()
            )
        return self._text

    def take(self, text: str) -> None:
        """Uses `text`, the content of any of the published forms of the vocabulary.

        Raises:
            InvalidInput: if it is none of them.
        """
        text = text if text.lstrip().startswith("{") else tokenizer_of_merges(_merges(text))
        self._tokenizer = _parse(text)
        self._text = text

    def __call__(self, phrases: Sequence[str]) -> TextTokens:
        """Ids [P, L] on the CPU.

        Raises:
            InvalidInput: if a phrase is empty or too long, or no vocabulary is at hand.
        """
        check_phrases(phrases)
        return self.encode(phrases)

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Ids [P, L] of any texts; an empty one is a start and an end.

        Raises:
            InvalidInput: if a text is too long, or no vocabulary is at hand.
        """
        tokenizer = self._loaded()
        end = tokenizer.token_to_id(END)
        assert end is not None  # seen when the text was taken
        found = tokenizer.encode_batch([plain(text) for text in texts])
        rows = [self._fitted(text, encoding.ids, end) for text, encoding in zip(texts, found, strict=True)]
        longest = self.max_tokens if self.fills else max(map(len, rows))
        return pad_ids(rows, end, longest)

    def pieces(self, phrase: str) -> list[str | None]:
        """What each token of a phrase stands for, as byte pairs read it; None for the start and the end."""
        text = plain(phrase)
        encoding = self._loaded().encode(text)
        spans = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [None if is_added else text[start:end].strip() for (start, end), is_added in spans]

    def length_of(self, text: str) -> int:
        """The tokens of a whole text, start and end included, however many."""
        return len(self._loaded().encode(plain(text)).ids)

    def _fitted(self, text: str, ids: list[int], end: int) -> list[int]:
        if len(ids) <= self.max_tokens:
            return ids
        if self.truncates:
            return [*ids[: self.max_tokens - 1], end]
        raise phrase_too_long(text, len(ids), self.max_tokens)

    def _loaded(self) -> Tokenizer:
        if self._tokenizer is None:
            text = self.text
            if text is None:
                raise missing_tokenizer(self.name)
            self._tokenizer = _parse(text)
        return self._tokenizer


def plain(text: str) -> str:
    """`text` as the byte pairs read it: repaired, blanks collapsed, lower case; the two special tokens left as they are."""
    parts = _SPECIALS.split(text)
    return " ".join(
        part if part in (START, END) else " ".join(repair(part).split()).lower() for part in parts
    )


def installed_tokenizer() -> str | None:
    """The `tokenizer.json` of CLIP's own vocabulary, where an installed package carries it; every CLIP has the same one."""
    for package in PACKAGES:
        found = find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            packed = Path(folder) / PACKED
            if packed.is_file():
                return tokenizer_of_merges(_merges(gzip.decompress(packed.read_bytes()).decode("utf-8")))
    return None


def tokenizer_of_merges(merges: Sequence[tuple[str, str]]) -> str:
    """The `tokenizer.json` of CLIP's tokenizer with `merges`; ids are bytes, bytes that end a word, merges, start, end."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = _letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=list(merges), unk_token=END, end_of_word_suffix=WORD_END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in (START, END)])
    return tokenizer.to_str()


def clip_byte_tokenizer() -> str:
    """The `tokenizer.json` of CLIP's tokenizer without merges: one id a byte, and no file to fetch."""
    return tokenizer_of_merges(())


def clip_word_tokenizer(words: Sequence[str]) -> str:
    """The `tokenizer.json` of a tokenizer that gives each of `words` (of plain letters) one token, as CLIP gives common
    words."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [*word[:-1], word[-1] + WORD_END]
        for end in range(1, len(letters)):
            merges["".join(letters[:end]), letters[end]] = None
    return tokenizer_of_merges(list(merges))


def _letters() -> list[str]:
    """The 256 bytes as characters in the order of CLIP's ids: those that can be printed first, then the others."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printed))
    return [chr(code) for code in (*printed, *range(0x100, 0x100 + others))]


def _merges(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines()[1:] if line][:NUM_MERGES]
    pairs = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    if "#version" not in text[:80] or not pairs or any(not second or " " in second for _, second in pairs):
        raise InvalidInput(
            "the tokenizer text is none of CLIP's forms; give its tokenizer.json, merges.txt or bpe_simple_vocab_16e6.txt"
        )
    return pairs


def _parse(text: str) -> Tokenizer:
    tokenizer = parse_tokenizer(text)
    if tokenizer.token_to_id(START) is None or tokenizer.token_to_id(END) is None:
        raise InvalidInput(f"the tokenizer has no {START} and {END}, so it is not CLIP's; give CLIP's own")
    return tokenizer
