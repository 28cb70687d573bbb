"""J, F and their statistics by hand-worked masks."""

import math

import numpy as np
import pytest

from refseg.errors import InvalidInput
from refseg.metrics import contour


def square(top, left, side, size=(40, 40)):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_region_similarity_is_the_share_of_the_union():
    assert contour.region_similarity(square(0, 0, 10), square(0, 5, 10)) == pytest.approx(50 / 150)


def test_two_empty_masks_agree_in_both():
    empty = square(0, 0, 0)
    assert contour.region_similarity(empty, empty) == 1
    assert contour.contour_accuracy(empty, empty) == 1


def test_void_pixels_do_not_count():
    answer, target, void = square(0, 0, 10), square(0, 0, 20), square(0, 0, 20) & ~square(0, 0, 10)
    assert contour.region_similarity(answer, target, void) == 1
    assert contour.contour_accuracy(answer, target, void) == 1


def test_a_full_mask_has_no_contour():
    full, empty = np.ones((20, 30), dtype=bool), np.zeros((20, 30), dtype=bool)
    assert contour.contour_accuracy(full, empty) == 1
    assert contour.region_similarity(full, empty) == 0


@pytest.mark.parametrize(("shift", "expected"), [(1, 1.0), (12, 0.0)])
def test_contours_agree_within_the_tolerance_alone(shift, expected):
    got = contour.contour_accuracy(square(5, 5, 8), square(5, 5 + shift, 8), tolerance=2)
    assert got == 1.0 if expected else got < 0.5


def test_decay_is_the_first_quarter_minus_the_last():
    got = contour.statistics(np.array([1.0, 1.0, 0.6, 0.5, 0.2]))
    assert got.mean == pytest.approx(0.66)
    assert got.recall == pytest.approx(3 / 5)  # one half itself does not count
    assert got.decay == pytest.approx(1.0 - 0.35)  # bins [1, 1] and [0.5, 0.2]


def test_decay_of_long_videos_does_not_wrap_around():
    series = np.concatenate([np.ones(300), np.zeros(300)])
    assert contour.statistics(series).decay == pytest.approx(1.0)


def test_a_series_without_numbers_has_no_mean():
    assert math.isnan(contour.statistics(np.full(4, np.nan)).mean)


def test_answers_may_number_the_objects_as_they_like():
    target = np.stack([square(0, 0, 10) + 2 * square(20, 20, 10).astype(int)] * 2)
    swapped = np.where(target == 1, 2, np.where(target == 2, 1, 0))
    assert contour.unsupervised(swapped, target).mean == 1


def test_a_missing_object_scores_nothing():
    target = np.stack([square(0, 0, 10) + 2 * square(20, 20, 10).astype(int)] * 2)
    assert contour.unsupervised(np.where(target == 1, 1, 0), target).mean == pytest.approx(0.5)


def test_too_many_proposals_are_refused():
    with pytest.raises(InvalidInput, match="allows 20"):
        contour.unsupervised(np.full((1, 4, 4), 21), np.ones((1, 4, 4), dtype=int))


def test_a_target_without_objects_is_refused():
    with pytest.raises(InvalidInput, match="no object"):
        contour.unsupervised(np.ones((1, 4, 4), dtype=int), np.zeros((1, 4, 4), dtype=int))


def test_an_unknown_object_is_refused_where_numbers_must_agree():
    with pytest.raises(InvalidInput, match="object 3"):
        contour.semi_supervised(np.full((3, 4, 4), 3), np.ones((3, 4, 4), dtype=int))
