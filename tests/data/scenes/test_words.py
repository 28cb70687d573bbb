from collections import Counter

import pytest

from data.scenes.helpers import shapes
from refseg.data.scenes.dataset import CLIP_REGISTERS
from refseg.data.scenes.nouns import ALL_NOUNS, ALMOST, GROUPS, plural_of
from refseg.data.scenes.vocabulary import (
    COLOURS,
    NOUNS,
    SHAPES,
    VOCABULARY,
    WORDS,
    canonical_words,
    groups_of_noun,
    names_of_noun,
)


def test_there_are_133_drawn_nouns_with_164_renderings_and_11_shapes():
    drawn = [noun for noun in ALL_NOUNS if noun.renderings]
    assert (len(drawn), sum(len(noun.renderings) for noun in drawn), len(SHAPES)) == (133, 164, 11)
    assert sum(noun.num_new for noun in ALL_NOUNS) == 15


def test_no_word_names_two_nouns():
    spoken = [word for noun in ALL_NOUNS for word in {noun.word, plural_of(noun), *noun.also}]
    spoken += [group.word for group in GROUPS]
    assert [word for word, count in Counter(spoken).items() if count > 1] == []


def test_no_noun_is_also_a_colour():
    assert not set(NOUNS) & set(COLOURS)


def test_tables_speak_of_nouns_that_exist():
    spoken = {word for words in ALMOST.values() for word in words} | set(ALMOST)
    spoken |= {word for group in GROUPS for word in (*group.members, *group.almost)}
    assert spoken <= set(NOUNS)


def test_a_panda_is_possibly_a_bear_and_a_bear_no_panda():
    bear, panda = (names_of_noun()[NOUNS.index(word)][0] for word in ("bear", "panda"))
    assert NOUNS.index("panda") in bear.possible - bear.sure
    assert NOUNS.index("bear") not in panda.possible


def test_an_owl_is_an_animal_and_a_bird():
    assert [name.one for name in groups_of_noun()[NOUNS.index("owl")]] == ["animal", "bird"]


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("mouse", "mice"),
        ("cherry", "cherries"),
        ("bus", "buses"),
        ("sheep", "sheep"),
        ("key", "keys"),
        ("axe", "axes"),
    ],
)
def test_plurals_are_english(word, plural):
    assert plural_of(ALL_NOUNS[NOUNS.index(word)]) == plural


def test_the_vocabulary_is_sorted_after_its_two_markers():
    assert VOCABULARY[:2] == ("<pad>", "<unk>")
    assert list(VOCABULARY[2:]) == sorted(set(WORDS))


@pytest.mark.parametrize("frames", [1, 3])
def test_every_word_that_is_said_is_in_the_vocabulary(frames):
    scenes = shapes(frames=frames, phrases=12, size=32)
    said = {word for index in range(40) for word in " ".join(scenes[index].phrases).split()}
    assert said <= set(WORDS)
    assert not said & {"a", "an"}  # a tokenizer that drops articles must not change what is said


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("A picture of the Red, Dog please!", ("the", "red", "dog")),
        ("please segment a   cat", ("cat",)),
        ("second hat from the left", ("second", "hat", "from", "the", "left")),
        ("", ()),
    ],
)
def test_canonical_words_drop_fillers_case_and_punctuation(phrase, words):
    assert canonical_words(phrase) == words


def test_phrases_are_canonical_already():
    scenes = shapes(phrases=8, size=32)
    for phrase in (phrase for index in range(30) for phrase in scenes[index].phrases):
        assert canonical_words(phrase) == tuple(phrase.split())


def test_clips_speak_of_motion_most():
    assert max(CLIP_REGISTERS, key=lambda pair: pair[1])[0] == "mot"
