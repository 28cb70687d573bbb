"""Phrases to token ids, through tokenizer files as the Hugging Face hub writes them.

A tokenizer is text (a `tokenizer.json`). It arrives with a checkpoint, or lies in the hub's cache on this machine;
nothing is downloaded here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refseg.errors import InvalidInput
from refseg.structures import TextTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = "bytes"  # the tokenizer that needs no file: RoBERTa's form, one id a byte
WORDS = "words"  # the tokenizer of a closed vocabulary, which needs no file: RoBERTa's form, one id a word
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # ids 0 to 4
BYTES_VOCABULARY = len(SPECIALS) + 256
ORGANISATIONS = {  # names of today for names of then
    "roberta-base": "FacebookAI/roberta-base",
    "bert-base-uncased": "google-bert/bert-base-uncased",
}


class PhraseTokenizer:
    """Token ids of phrases, read from a `tokenizer.json`; the file is looked for when the first phrase comes."""

    def __init__(self, name: str, *, max_tokens: int, pad_id: int) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self.pad_id = pad_id
        self._text: str | None = None
        self._tokenizer: Tokenizer | None = None

    @property
    def text(self) -> str | None:
        """The tokenizer's file, where it has been given or found; None otherwise."""
        if self._text is None:
            self._text = byte_tokenizer() if self.name == BYTES else cached_tokenizer(self.name)
        return self._text

    def take(self, text: str) -> None:
        """Uses `text`, the content of a `tokenizer.json`.

        Raises:
            InvalidInput: if it is not one.
        """
        self._tokenizer = parse_tokenizer(text)
        self._text = text

    def __call__(self, phrases: Sequence[str]) -> TextTokens:
        """Ids [P, L] padded to the longest phrase, on the CPU.

        Raises:
            InvalidInput: if a phrase is empty or too long, or no tokenizer file is at hand.
        """
        check_phrases(phrases)
        rows = [encoding.ids for encoding in self._loaded().encode_batch(list(phrases))]
        for phrase, ids in zip(phrases, rows, strict=True):
            if len(ids) > self.max_tokens:
                raise phrase_too_long(phrase, len(ids), self.max_tokens)
        return pad_ids(rows, self.pad_id, max(map(len, rows)))

    def pieces(self, phrase: str) -> list[str | None]:
        """What each token of a phrase stands for, as it is written there; None for tokens that the tokenizer adds."""
        encoding = self._loaded().encode(phrase)
        spans = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [None if is_added else phrase[start:end].strip() for (start, end), is_added in spans]

    def _loaded(self) -> Tokenizer:
        if self._tokenizer is None:
            text = self.text
            if text is None:
                raise missing_tokenizer(self.name)
            self._tokenizer = parse_tokenizer(text)
        return self._tokenizer


class WordTokenizer(PhraseTokenizer):
    """One token for each word of a closed vocabulary; case and punctuation are left out, other words are refused."""

    def __init__(self, words: Sequence[str], *, max_tokens: int, pad_id: int) -> None:
        super().__init__(WORDS, max_tokens=max_tokens, pad_id=pad_id)
        self.words = tuple(words)

    @property
    def text(self) -> str:
        """The tokenizer's file, made of the words."""
        return word_tokenizer(self.words)

    def __call__(self, phrases: Sequence[str]) -> TextTokens:
        """Ids [P, L] padded to the longest phrase, on the CPU.

        Raises:
            InvalidInput: if a phrase is empty or too long, or has a word that is not in the vocabulary.
        """
        plain = [_plain(phrase) for phrase in phrases]
        for phrase, words in zip(phrases, plain, strict=True):
            unknown = [word for word in words.split() if word not in self.words]
            if unknown:
                near = difflib.get_close_matches(unknown[0], self.words, n=3, cutoff=0.0)
                raise InvalidInput(
                    f"the phrase {phrase!r} has {', '.join(map(repr, unknown))}, which the model never learnt; it knows "
                    f"{len(self.words)} words, the nearest to {unknown[0]!r} are {', '.join(near) or 'none'}"
                )
        return super().__call__(plain)

    def pieces(self, phrase: str) -> list[str | None]:
        """The word of each token; None for tokens that the tokenizer adds."""
        return super().pieces(_plain(phrase))


def _plain(phrase: str) -> str:
    """Words in lower case with single blanks between them."""
    return " ".join(re.findall(r"[^\W_]+", phrase.lower()))


def check_phrases(phrases: Sequence[str]) -> None:
    """Refuses no phrase, and phrases without a word.

    Raises:
        InvalidInput: in these cases.
    """
    if not phrases:
        raise InvalidInput("no phrase was given; give at least one")
    if not all(phrase.strip() for phrase in phrases):
        raise InvalidInput("a phrase is empty; say in words what to segment")


def pad_ids(rows: Sequence[list[int]], padding: int, length: int) -> TextTokens:
    """Rows of ids as one table [P, length] on the CPU."""
    values = torch.tensor([ids + [padding] * (length - len(ids)) for ids in rows])
    return TextTokens(values, torch.arange(length) < torch.tensor([[len(ids)] for ids in rows]))


def phrase_too_long(phrase: str, count: int, most: int) -> InvalidInput:
    """What to say of a phrase with more tokens than a model reads."""
    return InvalidInput(
        f"the phrase {phrase[:40] + '...'!r} has {count} tokens and the model reads at most {most}; shorten it"
    )


def missing_tokenizer(name: str) -> InvalidInput:
    """What to say where no file of the tokenizer `name` is at hand."""
    return InvalidInput(
        f"the tokenizer {name!r} is not on this machine: the checkpoint carries none and the Hugging Face cache has none; "
        f"run `hf download {_repository(name)} tokenizer.json` once, then try again"
    )


def cached_tokenizer(name: str) -> str | None:
    """The `tokenizer.json` of hub repository `name` from the local cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    for repository in dict.fromkeys((name, _repository(name))):
        found = try_to_load_from_cache(repository, "tokenizer.json")
        if isinstance(found, str):
            return Path(found).read_text(encoding="utf-8")
    return None


def byte_tokenizer() -> str:
    """The `tokenizer.json` of a byte-level tokenizer without merges, with RoBERTa's special tokens."""
    from tokenizers import models, pre_tokenizers

    vocabulary = _number_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")
    return _tokenizer_text(model, pre_tokenizers.ByteLevel(add_prefix_space=False), vocabulary)


def word_tokenizer(words: Sequence[str]) -> str:
    """The `tokenizer.json` of a tokenizer that gives each of `words` one token, as RoBERTa gives common words."""
    from tokenizers import models, pre_tokenizers

    vocabulary = _number_tokens(words)
    model = models.WordLevel(vocab=vocabulary, unk_token="<unk>")
    return _tokenizer_text(model, pre_tokenizers.Whitespace(), vocabulary)


def _number_tokens(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate((*SPECIALS, *tokens))}


def _tokenizer_text(model: Any, splitter: Any, vocabulary: dict[str, int]) -> str:
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    return tokenizer.to_str()


def _repository(name: str) -> str:
    return ORGANISATIONS.get(name, name)


def parse_tokenizer(text: str) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes; it neither cuts nor pads.

    Raises:
        InvalidInput: if the text is no such file.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as cause:  # tokenizers raises bare Exception
        raise InvalidInput(
            f"the tokenizer text is not a tokenizer.json ({cause}); give the file of the tokenizer that the weights "
            "were trained with"
        ) from cause
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
