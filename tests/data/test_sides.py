"""Words that say a side change places when a picture is mirrored; words that only look like it stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.augment.geometric import swap_sides


@pytest.mark.parametrize(
    ("phrase", "mirrored"),
    [
        ("left dog", "right dog"),
        ("dog on the right", "dog on the left"),
        ("to the right of the left cup", "to the left of the right cup"),
        ("the leftmost cup", "the rightmost cup"),
        ("left-most, second from right", "right-most, second from left"),
        ("right-hand door", "left-hand door"),
        ("righthand door, lefthanded man", "lefthand door, righthanded man"),
        ("lefty", "righty"),
        ("the righties and a leftie", "the lefties and a rightie"),
        ("leftward and rightwards", "rightward and leftwards"),
        ("left side, leftside", "right side, rightside"),
        ("topleft, bottom-right, upperright", "topright, bottom-left, upperleft"),
        ("farleft person", "farright person"),
        ("left's ear", "right's ear"),
        ("left/right", "right/left"),
        ("LEFT one, Right one", "RIGHT one, Left one"),
        ("man turning right, left leg up", "man turning left, right leg up"),
        ("left-handed batter", "right-handed batter"),
        ("one on right.", "one on left."),
        ("food left over", "food left over"),
        ("left-over food, leftovers, leftover", "left-over food, leftovers, leftover"),
        ("the kid who is all right on the left", "the kid who is all right on the right"),
        ("alright then", "alright then"),
        ("bright cleft copyright upright", "bright cleft copyright upright"),
        ("playwright on the right", "playwright on the left"),
        ("guy right behind the left girl", "guy right behind the right girl"),
        ("right next to the left door", "right next to the right door"),
        ("right here, right now", "right here, right now"),
        ("at a right angle", "at a right angle"),
        ("right side up on the right side", "right side up on the left side"),
        ("the man who has left", "the man who has left"),
        ("the bag left behind", "the bag left behind"),
        ("zebra", "zebra"),
        ("", ""),
    ],
)
def test_sides_are_exchanged_and_other_meanings_are_not(phrase, mirrored):
    assert swap_sides(phrase) == mirrored


SIDED = ["left", "right", "leftmost", "right-hand", "lefty", "topright", "Left", "RIGHT"]


@given(st.lists(st.sampled_from([*SIDED, "dog", "the", "bright", "of", "side"]), max_size=8))
def test_exchanging_sides_twice_restores_the_phrase(words):
    phrase = " ".join(words)
    assert swap_sides(swap_sides(phrase)) == phrase


@given(st.text())
def test_any_text_is_taken_and_only_sides_change(text):
    mirrored = swap_sides(text)
    assert abs(len(mirrored) - len(text)) <= len(text)
    if "left" not in text.lower() and "right" not in text.lower():
        assert mirrored == text
