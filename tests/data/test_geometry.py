"""Drawing of stored parts, beside pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg.data.formats.masks import check_parts, draw, draw_count, draw_union, inclusive_box
from refseg.errors import InvalidInput

SIZE = (23, 31)
numbers = st.floats(-12, 44).map(lambda v: round(v, 2))
polygons = st.lists(st.lists(numbers, min_size=6, max_size=15), min_size=1, max_size=4)
masks = st.lists(st.lists(st.booleans(), min_size=31, max_size=31), min_size=23, max_size=23)


@given(polygons)
def test_polygons_are_drawn_as_pycocotools_draws_them(parts):
    codes = coco.frPyObjects(parts, *SIZE)
    stored = check_parts(parts, SIZE)
    assert (draw_union(stored, SIZE).numpy() == coco.decode(coco.merge(codes)).astype(bool)).all()
    assert (draw_count(stored, SIZE).numpy() == coco.decode(codes).sum(axis=2)).all()
    once = draw(stored, SIZE, "exactly-one")
    assert (once.numpy() == (coco.decode(codes).sum(axis=2) == 1)).all()


@given(masks, st.booleans())
def test_codes_are_drawn_as_pycocotools_draws_them(rows, is_text):
    values = np.asfortranarray(rows, dtype=np.uint8)
    code = coco.encode(values)
    counts = code["counts"].decode() if is_text else code["counts"]
    stored = check_parts([{"size": list(SIZE), "counts": counts}], SIZE)
    assert (draw_union(stored, SIZE).numpy() == values.astype(bool)).all()


@given(masks)
def test_uncompressed_codes_become_compressed_ones(rows):
    values = np.array(rows, dtype=bool)
    flat = values.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    stored = check_parts({"size": list(SIZE), "counts": counts}, SIZE)
    assert (draw_union(stored, SIZE).numpy() == values).all()


def test_parts_that_enclose_nothing_are_left_out_also_in_first_place():
    square = [2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0]
    alone = draw_union(check_parts([square], SIZE), SIZE)
    for parts in ([[1, 2, 3, 4], square], [square, [1, 2]], [[], square]):
        assert torch.equal(draw_union(check_parts(parts, SIZE), SIZE), alone)
    for parts in ([], [[]], [[1, 2, 3, 4]]):
        assert not draw_union(check_parts(parts, SIZE), SIZE).any()


def test_a_mask_is_written_where_it_is_asked_for():
    room = torch.ones(2, *SIZE, dtype=torch.bool)
    draw(check_parts([[2, 2, 9, 2, 9, 9]], SIZE), SIZE, "union", out=room[0])
    draw([], SIZE, "union", out=room[1])
    assert 20 < room[0].sum() < 30 and not room[1].any()


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (None, "neither a list of polygons nor"),
        ("abc", "neither a list of polygons nor"),
        ([[1, 2, "x", 4, 5, 6]], "no number"),
        ([["1", "2", "3", "4", "5", "6"]], "no flat list"),
        ([[[1, 2], [3, 4], [5, 6]]], "no flat list"),
        ([[1, 2, float("nan"), 4, 5, 6]], "no finite number"),
        ([[1, 2, float("inf"), 4, 5, 6]], "no finite number"),
        ([[1, 2, 1e9, 4, 5, 6]], "far outside"),
        ([{"size": [5, 5], "counts": "o0"}], "5x5"),
        ([{"size": list(SIZE), "counts": "5"}], "covers"),
        ([{"size": list(SIZE), "counts": "\x7f\x7f"}], "damaged"),
        ({"size": list(SIZE), "counts": [5, -2]}, "whole numbers"),
        ({"size": list(SIZE), "counts": [2**50]}, "whole numbers"),
        ({"counts": "o0"}, "size"),
    ],
)
def test_what_cannot_be_drawn_safely_is_refused(parts, told):
    with pytest.raises(InvalidInput, match=told):
        check_parts(parts, SIZE)


@given(masks)
def test_an_inclusive_box_touches_the_mask_on_every_side(rows):
    mask = torch.tensor(rows)
    x0, y0, x1, y1 = (int(v) for v in inclusive_box(mask))
    if not mask.any():
        assert (x0, y0, x1, y1) == (0, 0, 0, 0)
        return
    inside = mask[y0 : y1 + 1, x0 : x1 + 1]
    assert inside.sum() == mask.sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
