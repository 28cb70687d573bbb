"""What a phrase means, on scenes laid out by hand."""

import pytest

from data.scenes.helpers import thing
from refseg.data.scenes import motion
from refseg.data.scenes.phrases import location, relation, several
from refseg.data.scenes.phrases.describe import Description, Habits, describe
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.vocabulary import COLOURS, NOUNS, groups_of_noun, names_of_anything, names_of_noun


def named(word: str, **changes: object) -> Description:
    return Description(names_of_noun()[NOUNS.index(word)][0], **changes)  # type: ignore[arg-type]


def claims(maker, view, wanted, *, tries=3000):
    """All claims of a maker whose template is wanted, by what they mean."""
    dice = Rng(0)
    made = [claim for _ in range(tries) if (claim := maker(dice, view)) is not None]
    return [(claim.text, claim.meaning(view)) for claim in made if claim.template in wanted]


def test_a_red_apple_keeps_the_red_star_from_being_the_red_thing():
    anything = Description(names_of_anything()[0], COLOURS.index("red"))
    star = thing("star", 0.2, 0.2, colour="red")
    apple = thing("apple", 0.7, 0.7, maybe_colours=frozenset({COLOURS.index("red")}))
    assert anything.only([star]) == 0
    assert anything.only([star, apple]) is None


def test_an_untinted_sprite_has_no_colour_word():
    apple = thing("apple", 0.5, 0.5, maybe_colours=frozenset({COLOURS.index("red")}))
    assert named("apple", colour=COLOURS.index("red")).only([apple]) is None
    assert {describe(Rng(n), apple, Habits(colour=1.0)).colour for n in range(20)} == {-1}


@pytest.mark.parametrize(("other", "found"), [(0.20, None), (0.25, 0)])
def test_a_size_is_refused_when_another_lies_in_the_doubtful_zone(other, found):
    view = [thing("dog", 0.2, 0.2, side=0.16), thing("dog", 0.7, 0.7, side=other)]
    assert named("dog", size="small").only(view) == found


def test_a_plural_with_a_doubtful_member_is_refused():
    bears = [thing("bear", 0.2, 0.2), thing("bear", 0.5, 0.5)]
    assert named("bear").all_of(bears) == [0, 1]
    assert named("bear").all_of([*bears, thing("panda", 0.8, 0.8)]) is None


def test_nobody_says_brown_for_a_shade_of_orange_beside_it():
    brown = COLOURS.index("brown")
    tinted = thing(
        "dog", 0.7, 0.7, colour="orange", maybe_colours=frozenset({COLOURS.index("orange"), brown})
    )
    dog = thing("dog", 0.2, 0.2, colour="brown")
    assert named("dog", colour=brown).only([dog, tinted]) is None


@pytest.mark.parametrize(("gap", "is_said"), [(0.09, False), (0.11, True)])
def test_the_left_one_of_two_needs_a_clear_lead(gap, is_said):
    view = [thing("dog", 0.3, 0.5), thing("dog", 0.3 + gap, 0.5)]
    found = {
        meaning
        for text, meaning in claims(location.say_location, view, {"extreme"})
        if "leftmost dog" in text
    }
    assert found == ({(0,)} if is_said else {None})


@pytest.mark.parametrize(("x", "meaning"), [(0.43, (0,)), (0.46, None), (0.8, None)])
def test_a_lone_thing_is_on_the_left_only_past_the_middle(x, meaning):
    view = [thing("dog", x, 0.5), thing("car", 0.7, 0.2)]
    found = {
        m
        for text, m in claims(location.say_location, view, {"extreme"})
        if text in ("left dog", "the left dog")
    }
    assert found == {meaning}


def test_the_second_from_the_left_is_counted_from_the_left():
    view = [thing("dog", 0.8, 0.5), thing("dog", 0.2, 0.5), thing("dog", 0.5, 0.5)]
    found = dict(claims(location.say_location, view, {"ordinal"}))
    assert found["second dog from the left"] == (2,)
    assert found["third dog from the left"] == (0,)
    assert found["third dog from the right"] == (1,)
    assert found["second dog from the top"] is None  # all at one height


def test_the_biggest_must_be_clearly_bigger():
    clear = [thing("dog", 0.2, 0.5, side=0.3), thing("dog", 0.7, 0.5, side=0.2)]
    doubtful = [thing("dog", 0.2, 0.5, side=0.3), thing("dog", 0.7, 0.5, side=0.25)]
    assert dict(claims(location.say_location, clear, {"size"}))["biggest dog"] == (0,)
    assert dict(claims(location.say_location, clear, {"size"}))["smaller dog"] == (1,)
    assert set(dict(claims(location.say_location, doubtful, {"size"})).values()) == {None}


def test_the_middle_of_three_is_refused_when_rows_and_columns_disagree():
    row = [thing("dog", 0.2, 0.5), thing("dog", 0.8, 0.52), thing("dog", 0.5, 0.48)]
    corner = [thing("dog", 0.2, 0.2), thing("dog", 0.5, 0.8), thing("dog", 0.8, 0.5)]
    assert dict(claims(location.say_location, row, {"middle"}))["middle dog"] == (2,)
    assert dict(claims(location.say_location, corner, {"middle"}))["middle dog"] is None


@pytest.mark.parametrize(
    ("place", "side"),
    [((0.2, 0.5), "left of"), ((0.8, 0.5), "right of"), ((0.5, 0.2), "above"), ((0.5, 0.8), "below")],
)
def test_a_relation_says_the_side_on_which_the_thing_lies(place, side):
    view = [thing("dog", *place), thing("car", 0.5, 0.5)]
    wanted = {f"relation {side.split()[0]}"}
    found = dict(claims(relation.say_relation, view, wanted))
    assert found[f"the dog {side} the car"] == (0,)


def test_a_relation_is_refused_when_a_second_thing_might_be_meant():
    view = [thing("dog", 0.2, 0.5), thing("car", 0.5, 0.5), thing("dog", 0.45, 0.52)]
    assert set(dict(claims(relation.say_relation, view, {"relation left"})).values()) <= {None, (1,)}
    assert not any(
        "dog left of" in t and m for t, m in claims(relation.say_relation, view, {"relation left"})
    )


def test_a_relation_to_one_of_two_cars_is_refused():
    view = [thing("dog", 0.2, 0.5), thing("car", 0.5, 0.5), thing("car", 0.8, 0.5)]
    found = claims(relation.say_relation, view, {"relation left", "nearest", "farthest"})
    assert all(meaning is None for text, meaning in found if text.endswith("the car"))


def test_the_nearest_must_be_clearly_nearer():
    view = [thing("dog", 0.2, 0.5), thing("car", 0.5, 0.5), thing("dog", 0.9, 0.5)]
    found = dict(claims(relation.say_relation, view, {"nearest", "farthest"}))
    assert found["the dog closest to the car"] is None  # 0.3 against 0.4
    view[2].x = 0.99
    found = dict(claims(relation.say_relation, view, {"nearest", "farthest"}))
    assert found["the dog closest to the car"] == (0,)
    assert found["the dog farthest from the car"] == (2,)


def test_between_means_the_one_on_the_way():
    view = [thing("car", 0.1, 0.5), thing("dog", 0.5, 0.52), thing("bus", 0.9, 0.5), thing("dog", 0.5, 0.95)]
    found = dict(claims(relation.say_relation, view, {"between"}))
    assert found["the dog between the car and the bus"] == (1,)


def test_in_front_needs_something_that_is_covered():
    behind = thing("car", 0.5, 0.5, visible=0.7)
    view = [behind, thing("dog", 0.55, 0.55)]
    found = dict(claims(relation.say_relation, view, {"front or behind"}))
    assert found["the dog in front of the car"] == (1,)
    assert found["the car behind the dog"] == (0,)
    behind.visible = 0.99
    assert set(dict(claims(relation.say_relation, view, {"front or behind"})).values()) == {None}


def test_several_means_all_of_them():
    view = [thing("dog", 0.2, 0.2), thing("dog", 0.5, 0.5), thing("cat", 0.8, 0.8)]
    found = dict(claims(several.say_several, view, {"plural", "pair"}))
    assert found["both dogs"] == (0, 1)
    assert found["the three animals"] == (0, 1, 2)
    assert found.get("the dog and the cat") is None  # which dog?


def test_nothing_is_said_only_of_what_cannot_be_meant():
    view = [thing("bear", 0.2, 0.2), thing("circle", 0.7, 0.7, colour="red")]
    found = dict(claims(several.say_nothing, view, {"nothing"}))
    for text, meaning in found.items():
        if meaning is not None:
            assert meaning == ()
            assert text not in ("bear", "the bear", "circle", "disc", "red circle", "red thing", "shape")
    assert any(meaning == () for meaning in found.values())


def test_a_still_thing_is_not_told_from_a_spinning_one_by_standing_still():
    still, spinning = thing("dog", 0.2, 0.2, motion="still"), thing("dog", 0.8, 0.8, motion="spinning")
    found = dict(claims(motion.say_motion, [still, spinning], {"motion still", "motion spinning"}))
    assert found["the dog standing still"] is None
    assert found["the dog spinning"] == (1,)


def test_a_view_without_motion_says_nothing_about_it():
    assert motion.say_motion(Rng(1), [thing("dog", 0.2, 0.2)]) is None


def test_groups_are_said_of_their_members_only():
    bird = groups_of_noun()[NOUNS.index("owl")][1]
    view = [thing("owl", 0.2, 0.2), thing("dog", 0.7, 0.7)]
    assert Description(bird).only(view) == 0
