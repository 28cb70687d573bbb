"""Phrases to ids."""

import pytest
import torch

from refseg.encoders.tokenizers.tokens import (
    BYTES,
    PhraseTokenizer,
    WordTokenizer,
    byte_tokenizer,
    cached_tokenizer,
    word_tokenizer,
)
from refseg.errors import InvalidInput


def trained():
    """A small byte-level BPE with merges, in the form of RoBERTa's file."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {
        token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "re", "red", "Ġred"])
    }
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[("r", "e"), ("re", "d"), ("Ġ", "red")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.enable_truncation(3)
    return tokenizer.to_str(), words


def tokenizer(name=BYTES, **changes):
    return PhraseTokenizer(name, **{"max_tokens": 30, "pad_id": 1, **changes})


def test_merges_of_the_given_file_are_applied_without_its_truncation():
    text, words = trained()
    phrases = tokenizer("given")
    phrases.take(text)
    tokens = phrases(["red red", "red"])
    assert tokens.values.tolist() == [[0, words["red"], words["Ġred"], 2], [0, words["red"], 2, 1]]
    assert tokens.valid.tolist() == [[True] * 4, [True, True, True, False]]


def test_bytes_need_no_file_and_know_every_character():
    tokens = tokenizer()(["dog", "\u00e9"])
    assert tokens.values.shape == (2, 5)
    assert tokens.values.max() < 5 + 256
    assert (tokens.values != 3).all()  # nothing is unknown
    assert tokens.valid[1].tolist() == [True, True, True, True, False]  # two bytes, and the ends


def test_case_matters():
    tokens = tokenizer()(["Dog", "dog"])
    assert not torch.equal(tokens.values[0], tokens.values[1])


def test_an_absent_tokenizer_is_told_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(InvalidInput, match="not on this machine"):
        tokenizer("nobody/nothing")(["dog"])


def test_the_hubs_cache_is_read(monkeypatch, tmp_path):
    text, _ = trained()
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, _: str(file) if "/" in name else None
    )
    assert cached_tokenizer("roberta-base") == text


def test_a_text_that_is_no_tokenizer_is_refused():
    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        tokenizer().take("{}")


@pytest.mark.parametrize("phrases", [[], ["dog", " "]])
def test_nothing_said_is_refused(phrases):
    with pytest.raises(InvalidInput):
        tokenizer()(phrases)


def test_a_phrase_that_is_too_long_is_refused():
    with pytest.raises(InvalidInput, match="32 tokens"):
        tokenizer()(["x" * 30])


def test_the_bytes_file_is_a_tokenizer():
    other = tokenizer("given")
    other.take(byte_tokenizer())
    assert other(["dog"]).values.tolist() == tokenizer()(["dog"]).values.tolist()


def test_a_word_tokenizer_gives_a_known_word_one_token_between_the_ends():
    reads = PhraseTokenizer(BYTES, max_tokens=20, pad_id=1)
    reads.take(word_tokenizer(["dog", "left", "the"]))
    tokens = reads(["the left dog", "the zebra"])
    assert tokens.values.tolist() == [[0, 7, 6, 5, 2], [0, 7, 3, 2, 1]]
    assert tokens.valid.tolist() == [[True] * 5, [True] * 4 + [False]]


def of_words(*words, **changes):
    return WordTokenizer(words, **{"max_tokens": 6, "pad_id": 1, **changes})


def test_a_closed_vocabulary_gives_each_word_one_token():
    tokens = of_words("red", "dog")(["Red, dog!", "dog"])
    assert tokens.values.tolist() == [[0, 5, 6, 2], [0, 6, 2, 1]]
    assert tokens.valid.tolist() == [[True] * 4, [True, True, True, False]]
    assert of_words("red", "dog").pieces("Red, dog!") == [None, "red", "dog", None]


def test_its_words_travel_as_a_tokenizer_file():
    other = PhraseTokenizer("given", max_tokens=6, pad_id=1)
    other.take(of_words("red", "dog").text)
    assert other(["red dog"]).values.tolist() == [[0, 5, 6, 2]]


def test_a_word_outside_a_closed_vocabulary_is_named_with_its_nearest():
    with pytest.raises(InvalidInput, match=r"'hog'.*2 words.*dog"):
        of_words("red", "dog")(["red dog", "red hog"])
    with pytest.raises(InvalidInput, match="knows 0 words"):
        of_words()(["dog"])


def test_a_phrase_without_a_word_is_empty_to_a_closed_vocabulary():
    with pytest.raises(InvalidInput, match="empty"):
        of_words("red")(["?!"])


def test_a_phrase_too_long_for_a_closed_vocabulary_is_refused():
    with pytest.raises(InvalidInput, match="at most 6"):
        of_words("red")(["red red red red red"])
