"""Words to tokens, by cases worked by hand from the rules of spaCy 2.3's English pipeline."""

import pytest

from refseg.encoders.tokenizers.english import tokens_of


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        # contractions, with and without the apostrophe
        ("im", "i m"), ("I'm", "I 'm"), ("hes", "he s"), ("dont", "do nt"), ("Can't", "Ca n't"),
        ("couldn't've", "could n't 've"), ("youdve", "you d ve"), ("whos", "who s"), ("theses", "these s"),  # codespell:ignore whos,theses
        ("wed", "we d"), ("id", "i d"), ("hed", "he d"), ("cannot", "can not"), ("gonna", "gon na"),
        ("ima", "i m a"), ("y'all", "y' all"), ("5pm", "5 pm"), ("12a.m.", "12 a.m."), ("13pm", "13pm"),
        # words that only look like them
        ("its", "its"), ("ill", "ill"), ("hell", "hell"), ("shed", "shed"), ("were", "were"), ("lets", "lets"),
        ("whore", "whore"), ("here", "here"), ("hem", "hem"), ("item", "item"), ("she'd", "she 'd"),
        # kept whole
        ("a.", "a."), ("vs.", "vs."), ("w/o", "w/o"), ("and/or", "and/or"), ("'em", "'em"), ("Mr.", "Mr."),
        ("goin'", "goin'"),
        # prefixes and suffixes
        ("(striped)", "( striped )"), ("man,", "man ,"), ("hat!!", "hat ! !"), ("$5", "$ 5"), ("#3", "# 3"),
        ("woman's", "woman 's"), ("hes.", "he s ."), ("don't.", "do n't ."), ("5ft", "5 ft"), ("10%.", "10 % ."),
        ("mr.", "mr ."), ("USA.", "USA ."), ("ok...", "ok ..."), ("+5", "+5"), ("5+", "5 +"), ("w/", "w/"),
        ("-half", "-half"), ("''", "''"), ("!", "!"), ("...", "..."),
        # infixes
        ("t-shirt", "t - shirt"), ("t--shirt", "t -- shirt"), ("top/left", "top / left"), ("12:30", "12:30"),
        ("2nd", "2nd"), ("12-year", "12-year"), ("2-3", "2 - 3"), ("v-neck's", "v - neck 's"),
        ("blonde...girl", "blonde ... girl"), ("left.right", "left.right"), ("left.Right", "left . Right"),
        ("red,blue", "red , blue"), ("x=y", "x = y"), ("3/4", "3/4"), ("3rd/4th", "3rd/4th"),
    ],
)  # fmt: skip
def test_a_word_is_cut_as_spacy_cuts_it(word, tokens):
    assert " ".join(tokens_of(word)) == tokens


@pytest.mark.parametrize(
    "word", ["((a-b)).", "i'd've", "'tis", "", "...,,,", "a.b.c", "é-è", "5'10\"", "x" * 500]
)
def test_tokens_are_the_words_letters(word):
    assert "".join(tokens_of(word)) == word
