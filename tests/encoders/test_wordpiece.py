"""Phrases to word pieces, by the rules of the tokenizer that the weights were trained with."""

import json

import pytest

from refseg.encoders.tokenizers.wordpiece import LETTERS, LETTERS_VOCABULARY, SPECIALS, WordPieceTokenizer
from refseg.errors import InvalidInput

WORDS = (*SPECIALS, "man", "##s", "red", "the", "'", "$", "x", "men", "\u4e2d", "\u03c2", "##\u03c2")


def reader(length=8):
    tokenizer = WordPieceTokenizer("given", length=length, vocabulary=len(WORDS))
    tokenizer.take("\n".join(WORDS) + "\n")
    return tokenizer


def told(text):
    return [WORDS[number] for number in reader().ids(text)[1:-1]]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The  RED\tmans", ["the", "red", "man", "##s"]),
        ("m\u00e9n", ["men"]),
        ("man's", ["man", "'", "[UNK]"]),
        ("red$man", ["red", "$", "man"]),
        ("\u4e2dman", ["\u4e2d", "man"]),
        ("x\u0000 x\u200b x", ["[UNK]", "[UNK]", "x"]),  # kept, so the words are unknown
        ("man\u00a0red\u001cred", ["man", "red", "red"]),
        ("[MASK]red [mask]", ["[MASK]", "red", "[UNK]", "[UNK]", "[UNK]"]),
        ("\u03a3\u03a3", ["[UNK]"]),  # lower case ends in a final sigma, and starts with another
        ("x" * 100, ["[UNK]"]),
        ("manx", ["[UNK]"]),  # one unknown rest makes the whole word unknown
        ("", []),
    ],
)
def test_words_are_cut_as_published(text, pieces):
    assert told(text) == pieces


def test_a_long_phrase_is_cut_and_loses_its_end_and_a_short_one_is_padded():
    tokens = reader(length=4)(["the red man", "red"])
    start, end, pad = (WORDS.index(name) for name in ("[CLS]", "[SEP]", "[PAD]"))
    assert tokens.values.tolist() == [
        [start, WORDS.index("the"), WORDS.index("red"), WORDS.index("man")],
        [start, WORDS.index("red"), end, pad],
    ]
    assert tokens.valid.tolist() == [[True] * 4, [True, True, True, False]]


def test_a_vocabulary_file_and_a_tokenizer_file_say_the_same():
    first = reader()
    second = WordPieceTokenizer("given", length=8, vocabulary=len(WORDS))
    second.take(first.text)
    assert second.ids("the red mans") == first.ids("the red mans")


def test_ordinary_words_are_cut_as_by_the_hubs_tokenizer():
    from tokenizers import Tokenizer

    hub = Tokenizer.from_str(reader().text)
    for text in ("the red man's $man", "m\u00e9n \u4e2d MANS", "man-red"):
        assert reader().ids(text) == hub.encode(text).ids


def test_letters_need_no_file():
    tokenizer = WordPieceTokenizer(LETTERS, length=12, vocabulary=LETTERS_VOCABULARY)
    tokens = tokenizer(["a Dog!"])
    assert tokens.valid.sum() == 7
    assert (tokens.values != 1).all()  # nothing unknown


@pytest.mark.parametrize("phrases", [[], ["dog", " \t"]])
def test_nothing_said_is_refused(phrases):
    with pytest.raises(InvalidInput):
        reader()(phrases)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("just\nwords", "lacks"),
        ("{", "tokenizer.json"),
        (json.dumps({"model": {"type": "BPE", "merges": []}}), "tokenizer.json"),
        (json.dumps({"model": {"vocab": ["a"]}}), "tokenizer.json"),
        (json.dumps({"normalizer": {"lowercase": False}, "model": {"vocab": {}}}), "uncased"),
        ("\n".join((*WORDS, "more")), "knows"),
    ],
)
def test_a_text_that_is_no_fitting_vocabulary_is_refused(text, match):
    with pytest.raises(InvalidInput, match=match):
        reader().take(text)


def test_an_absent_vocabulary_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr("refseg.encoders.tokenizers.wordpiece.cached_tokenizer", lambda name: None)
    with pytest.raises(InvalidInput, match="not on this machine"):
        WordPieceTokenizer("bert-base-uncased", length=20, vocabulary=30522)(["dog"])
