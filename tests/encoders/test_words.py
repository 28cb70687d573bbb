"""Closed vocabularies: what is read, what is left out, and what is refused."""

import pytest

from refseg.encoders.tokenizers.closed_vocabulary import ClosedVocabulary
from refseg.errors import InvalidInput

WORDS = ClosedVocabulary(("cat", "dog", "left", "of", "red", "star", "the", "top", "show"), max_tokens=4)


def test_phrases_become_ids_that_count_from_one_and_are_padded_with_zero():
    ids, valid = WORDS.encode(["red cat", "dog left of star"])
    assert ids.tolist() == [[5, 1, 0, 0], [2, 3, 4, 6]]
    assert valid.tolist() == [[True, True, False, False], [True] * 4]


def test_capitals_and_punctuation_do_not_matter():
    assert WORDS.split("Red, STAR!") == ["red", "star"]


@pytest.mark.parametrize(
    "phrase", ["the red star", "please find a red star", "picture of the red star", "this is my red star"]
)
def test_articles_and_courtesies_are_left_out(phrase):
    assert WORDS.split(phrase) == ["red", "star"]


def test_a_courtesy_that_the_vocabulary_knows_is_kept():
    assert WORDS.split("show dog") == ["show", "dog"]


def test_of_is_kept_where_it_means_something():
    assert WORDS.split("left of dog") == ["left", "of", "dog"]


def test_an_unknown_word_is_named_with_its_nearest_known_words():
    with pytest.raises(InvalidInput, match=r"'stat' \(nearest known: star.*'zebra' \(nearest known: none\)"):
        WORDS.split("red stat zebra")


@pytest.mark.parametrize("phrase", ["", "  ", "?!", "the", "please"])
def test_a_phrase_that_names_nothing_is_refused(phrase):
    with pytest.raises(InvalidInput, match=r"is empty|holds no word"):
        WORDS.split(phrase)


def test_a_phrase_with_too_many_words_is_refused():
    with pytest.raises(InvalidInput, match="5 words, and at most 4"):
        WORDS.split("cat dog cat dog cat")


def test_no_phrases_are_no_rows():
    ids, valid = WORDS.encode([])
    assert ids.shape == valid.shape == (0, 1)
