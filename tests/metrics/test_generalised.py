"""Phrases of one, several or no targets, worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import InvalidInput
from refseg.metrics.generalised import (
    BoxAnswer,
    Refusable,
    box_scores,
    generalised_iou,
    generalised_scores,
    precision_of_boxes,
)

ROWS = st.lists(
    st.builds(
        lambda shared, more, has_target, refused: Refusable(shared, shared + more, has_target, refused),
        st.integers(0, 50),
        st.integers(0, 50),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def answer(boxes, scores, targets):
    shaped = (
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(targets, dtype=np.float32).reshape(-1, 4),
    )
    return BoxAnswer(np.array(scores, dtype=np.float32), *shaped)


def test_every_kind_of_phrase_counts_as_published():
    rows = [
        Refusable(0, 30, has_target=False, is_refused=True),  # right: 1, whatever the mask is
        Refusable(0, 20, has_target=False, is_refused=False),  # wrong: its pixels stay in the union
        Refusable(5, 40, has_target=True, is_refused=True),  # wrong: loses the intersection, keeps the union
        Refusable(30, 40, has_target=True, is_refused=False),
    ]
    got = generalised_scores(rows)
    assert got.giou == pytest.approx((1 + 0 + 0 + 0.75) / 4)
    assert got.ciou == pytest.approx(30 / (20 + 40 + 40))
    assert (got.n_acc, got.t_acc) == (0.5, 0.5)
    assert got.precision == {"P@0.7": 0.5, "P@0.8": 0.0, "P@0.9": 0.0}


def test_an_empty_answer_that_was_not_called_one_is_wrong():
    assert generalised_scores([Refusable(0, 0, has_target=False, is_refused=False)]).giou == 0


def test_accuracies_without_an_empty_phrase_are_zero_as_published_and_unknown_as_measured():
    got = generalised_scores([Refusable(1, 1, has_target=True, is_refused=False)])
    assert math.isnan(got.n_acc)
    assert got.t_acc == 1
    assert got.published_accuracies == (0, 0)


@given(ROWS, st.randoms())
def test_scores_are_shares_and_do_not_depend_on_the_order(rows, dice):
    shuffled = rows.copy()
    dice.shuffle(shuffled)
    got, again = generalised_scores(rows), generalised_scores(shuffled)
    for value in (got.giou, got.ciou, got.n_acc, got.t_acc):
        assert math.isnan(value) or 0 <= value <= 1
    assert (got.giou, got.ciou) == pytest.approx((again.giou, again.ciou), nan_ok=True)
    assert got.precision["P@0.7"] >= got.precision["P@0.9"] or math.isnan(got.precision["P@0.7"])


def test_boxes_are_right_only_all_together():
    left, right = [0, 0, 10, 10], [50, 0, 60, 10]
    answers = [
        answer([left, right], [0.9, 0.8], [right, left]),  # both
        answer([left, right], [0.9, 0.8], [left]),  # one too many
        answer([left, right], [0.9, 0.6], [left, right]),  # one is not sure enough
        answer([left], [0.1], []),  # rightly nothing
        answer([left], [0.9], []),  # wrongly something
    ]
    got = box_scores(answers)
    assert got.f1 == pytest.approx(2 / 5)
    assert got.n_acc == 0.5
    assert got.t_acc == 1


def test_a_stored_score_of_seven_tenths_is_below_it():
    box = [0, 0, 10, 10]
    assert box_scores([answer([box], [0.7], [box])]).f1 == 0


def test_generalised_iou_of_boxes_apart_is_negative():
    got = generalised_iou(
        np.array([[0, 0, 10, 10]]), np.array([[10, 0, 20, 10], [0, 0, 10, 5], [30, 0, 40, 10]])
    )
    assert got[0] == pytest.approx([0, 0.5, -0.5])


def test_boxes_without_area_fit_nothing():
    assert generalised_iou(np.array([[5, 5, 5, 5]]), np.array([[5, 5, 5, 5]]))[0, 0] == -1


def test_one_of_the_k_best_boxes_is_enough():
    wanted, other = [0, 0, 10, 10], [50, 50, 60, 60]
    answers = [answer([other, wanted], [0.9, 0.1], [wanted]), answer([wanted, other], [0.9, 0.1], [wanted])]
    assert precision_of_boxes(answers, (1, 2)) == (0.5, 1.0)


def test_boxes_of_another_shape_are_refused():
    wrong = BoxAnswer(np.ones(2, dtype=np.float32), np.ones((1, 4), dtype=np.float32), np.ones((0, 4)))
    with pytest.raises(InvalidInput, match="R scores"):
        box_scores([wrong])
