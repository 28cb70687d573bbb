"""J and F of any masks: against a plain reading of their definition, and what must hold whatever the masks are."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from refseg.metrics import contour
from refseg.metrics.boundary import grown

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@st.composite
def pairs(draw, count=2):
    """Masks of one size: noise, boxes, and now and then a full or an empty one."""
    size = draw(SIZES)
    return [draw(one(size)) for _ in range(count)]


def one(size):
    return st.one_of(
        arrays.arrays(np.bool_, size),
        boxes(size),
        st.just(np.zeros(size, dtype=bool)),
        st.just(np.ones(size, dtype=bool)),
    )


@st.composite
def boxes(draw, size):
    top, bottom = sorted(draw(st.tuples(*[st.integers(0, size[0])] * 2)))
    left, right = sorted(draw(st.tuples(*[st.integers(0, size[1])] * 2)))
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def plain_boundary(mask):
    """Pixel by pixel: does it differ from its neighbour to the east, south or south-east?"""
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            edge[y, x] = any(mask[y, x] != mask[b, a] for b, a in near if b < height and a < width)
    return edge


def plain_accuracy(answer, target, radius):
    """Pixel by pixel: is a pixel of the other contour within the radius?"""
    ours, theirs = (np.argwhere(plain_boundary(mask)).tolist() for mask in (answer, target))
    if not ours and not theirs:
        return 1.0
    if not ours or not theirs:
        return 0.0

    def share(some, others):
        near = [any((y - b) ** 2 + (x - a) ** 2 <= radius**2 for b, a in others) for y, x in some]
        return sum(near) / len(near)

    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pairs(), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_f_is_what_its_definition_says(masks, radius):
    got = contour.contour_accuracy(*masks, tolerance=radius)
    assert got == pytest.approx(plain_accuracy(*masks, radius), abs=1e-12)


@given(arrays.arrays(np.bool_, SIZES))
@settings(max_examples=100, deadline=None)
def test_the_boundary_is_what_its_definition_says(mask):
    assert np.array_equal(contour.boundary(mask), plain_boundary(mask))


@given(arrays.arrays(np.bool_, SIZES), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_growing_reaches_exactly_the_disk(mask, radius):
    rows, columns = np.indices(mask.shape)
    wanted = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        wanted |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    assert np.array_equal(grown(mask.astype(np.uint8), radius) > 0, wanted)


@given(pairs(count=8))
@settings(max_examples=100, deadline=None)
def test_frames_that_are_counted_together_score_as_each_alone(masks):
    answers, targets = np.stack(masks[:4]), np.stack(masks[4:])
    together = contour.contour_accuracies(answers, targets)
    alone = [contour.contour_accuracy(a, t) for a, t in zip(answers, targets, strict=True)]
    assert together.tolist() == alone


@given(pairs())
@settings(max_examples=150, deadline=None)
def test_j_and_f_are_symmetric_shares_and_one_for_equal_masks(masks):
    answer, target = masks
    for measure in (contour.region_similarity, contour.contour_accuracy):
        value = measure(answer, target)
        assert 0 <= value <= 1
        assert value == pytest.approx(measure(target, answer), abs=1e-12)
        assert measure(answer, answer) == 1


@given(pairs(count=3))
@settings(max_examples=100, deadline=None)
def test_void_pixels_decide_nothing(masks):
    answer, target, void = masks
    for measure in (contour.region_similarity, contour.contour_accuracy):
        assert measure(answer | void, target, void) == measure(answer & ~void, target, void)


@st.composite
def videos(draw):
    """Index maps of answers and targets, [T, H, W], with the objects 1 to N in the first frame of the target."""
    size, frames, objects = (
        draw(st.tuples(st.integers(4, 10), st.integers(4, 10))),
        3,
        draw(st.integers(1, 3)),
    )
    shape = (frames, *size)
    target = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, objects)))
    target[0].flat[:objects] = range(1, objects + 1)
    return draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 4))), target


@given(videos(), st.permutations([1, 2, 3, 4]))
@settings(max_examples=60, deadline=None)
def test_how_an_answer_numbers_its_objects_does_not_matter(video, order):
    answer, target = video
    renamed = np.array([0, *order], dtype=np.uint8)[answer]
    # Published behaviour: the highest number counts the proposals, so a number left free is a proposal of nothing.
    assume(renamed.max() == answer.max())
    assert contour.unsupervised(renamed, target).mean == pytest.approx(
        contour.unsupervised(answer, target).mean
    )


@given(videos())
@settings(max_examples=60, deadline=None)
def test_matching_finds_the_best_assignment_of_all(video):
    import itertools

    answer, target = video
    objects = int(target[0].max())
    proposals = max(int(answer.max()), objects)
    fit = np.zeros((proposals, objects))
    for p in range(proposals):
        for o in range(objects):
            mine, theirs = answer == p + 1, target == o + 1
            fit[p, o] = sum(
                measure(a, t)
                for a, t in zip(mine, theirs, strict=True)
                for measure in (contour.region_similarity, contour.contour_accuracy)
            ) / (2 * len(target))
    best = max(
        math.fsum(fit[p, o] for o, p in enumerate(chosen)) / objects
        for chosen in itertools.permutations(range(proposals), objects)
    )
    assert contour.unsupervised(answer, target).mean == pytest.approx(best)
