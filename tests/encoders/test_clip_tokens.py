"""Phrases to CLIP's ids."""

import gzip

import pytest

from refseg.encoders.tokenizers import clip
from refseg.encoders.tokenizers.clip import (
    CLIP_BYTES_VOCABULARY,
    ClipTokenizer,
    clip_byte_tokenizer,
    clip_word_tokenizer,
    plain,
    tokenizer_of_merges,
)
from refseg.encoders.tokenizers.tokens import BYTES
from refseg.errors import InvalidInput

MERGES = "#version: 0.2\nr e\nre d</w>\n' s</w>\n"
RED, POSSESSIVE, START, END = 513, 514, 515, 516  # after 2 * 256 bytes and "re"


def tokenizer(**changes):
    made = ClipTokenizer("given", **{"max_tokens": 8, **changes})
    made.take(MERGES)
    return made


def test_words_are_lower_cased_and_merged_up_to_their_end():
    assert tokenizer()(["  RED\tred "]).values.tolist() == [[START, RED, RED, END]]


def test_digits_stand_alone_and_endings_are_split_off():
    ids = tokenizer().encode(["a1b's"]).values[0].tolist()
    assert ids[0] == START and ids[-2:] == [POSSESSIVE, END]
    assert len(ids) == 6  # a, 1, b, 's


def test_padding_is_the_end_token_and_only_valid_tells_it_from_one():
    tokens = tokenizer()(["red red", "red"])
    assert tokens.values[1].tolist() == [START, RED, END, END]
    assert tokens.valid[1].tolist() == [True, True, True, False]


def test_a_literal_end_token_in_a_phrase_counts_as_one_token():
    tokens = tokenizer().encode(["<|endoftext|> red", ""])
    assert tokens.values.tolist() == [[START, END, RED, END], [START, END, END, END]]
    assert tokens.valid.tolist() == [[True] * 4, [True, True, False, False]]


def test_too_long_a_phrase_is_refused_or_cut_before_its_end_token():
    with pytest.raises(InvalidInput, match="5 tokens and the model reads at most 4"):
        tokenizer(max_tokens=4)(["red red red"])
    cut = tokenizer(max_tokens=4, truncates=True, fills=True)(["red red red", "red"])
    assert cut.values.tolist() == [[START, RED, RED, END], [START, RED, END, END]]


def test_the_kept_file_gives_the_same_ids():
    first, again = tokenizer(), ClipTokenizer("given", max_tokens=8)
    again.take(first.text)
    assert again(["red's"]).values.equal(first(["red's"]).values)


def test_bytes_need_no_file_and_know_every_character():
    tokens = ClipTokenizer(BYTES, max_tokens=30)(["ros\u00e9 \u2014"])
    assert tokens.values.shape == (1, 2 + 5 + 3)
    assert tokens.values.max() == CLIP_BYTES_VOCABULARY - 1


def test_entities_are_read_apart_from_special_tokens():
    assert plain("A &amp; B <|endoftext|>") == "a & b <|endoftext|> "


@pytest.mark.parametrize("text", ["{}", "words", '{"a": 1}', "#version: 0.2\nr e d\n"])
def test_a_text_that_is_no_vocabulary_is_refused(text):
    with pytest.raises(InvalidInput, match="give"):
        ClipTokenizer("given", max_tokens=8).take(text)


def test_another_models_tokenizer_is_refused():
    from refseg.encoders.tokenizers.tokens import byte_tokenizer

    with pytest.raises(InvalidInput, match="not CLIP's"):
        ClipTokenizer("given", max_tokens=8).take(byte_tokenizer())


@pytest.mark.parametrize("phrases", [[], ["dog", " "]])
def test_nothing_said_is_refused(phrases):
    with pytest.raises(InvalidInput):
        tokenizer()(phrases)


def test_the_hubs_own_tokenizer_gives_the_same_ids():
    transformers = pytest.importorskip("transformers")
    merges = [("r", "e"), ("re", "d</w>"), ("'", "s</w>"), ("e", "n"), ("re", "en</w>"), ("en", "</w>")][:4]
    import json

    model = json.loads(tokenizer_of_merges(merges))["model"]
    theirs = transformers.CLIPTokenizer(vocab=model["vocab"], merges=merges)
    ours = ClipTokenizer("given", max_tokens=77)
    ours.take(tokenizer_of_merges(merges))
    texts = ["Red's GREEN 12 hats!!", "it's we'll they've ...", "", "ros\u00e9 <|endoftext|> end"]
    expected = theirs(texts)["input_ids"]
    assert [row[seen].tolist() for row, seen in zip(*_pair(ours, texts), strict=True)] == expected


def _pair(ours, texts):
    tokens = ours.encode(texts)
    return tokens.values, tokens.valid


def test_the_byte_tokenizer_is_of_the_size_it_says():
    import json

    assert len(json.loads(clip_byte_tokenizer())["model"]["vocab"]) == CLIP_BYTES_VOCABULARY


def test_plain_words_can_be_given_one_token_each():
    tokens = ClipTokenizer("given", max_tokens=8)
    tokens.take(clip_word_tokenizer(["red", "reds", "a"]))
    assert tokens(["a red reds"]).values.shape == (1, 5)


def test_an_installed_package_of_clip_brings_the_vocabulary_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "a_clip").mkdir()
    (tmp_path / "a_clip" / "__init__.py").write_text("raise ImportError('this package was imported')")
    (tmp_path / "a_clip" / clip.PACKED).write_bytes(gzip.compress(MERGES.encode()))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(clip, "PACKAGES", ("no_such_package", "a_clip"))
    found = ClipTokenizer("nobody/cached-this", max_tokens=8)(["red"])
    assert found.values.tolist() == [[START, RED, END]]
