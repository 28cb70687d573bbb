"""Run-length codes, polygons and PNG masks: what is right is read exactly, what is wrong is refused in one sentence."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco

from refseg.data.formats.masks import (
    boxes_of_masks,
    mask_from_polygons,
    mask_from_rle,
    read_mask_png,
    rle_of_mask,
)
from refseg.errors import InvalidInput

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)).map(torch.from_numpy)
MASK = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)  # down the columns: 00 10 11


@given(masks)
def test_a_mask_survives_the_compressed_code(mask):
    assert mask_from_rle(rle_of_mask(mask), mask.shape).equal(mask)


@given(masks)
def test_a_mask_survives_the_code_of_plain_numbers(mask):
    column_major = mask.T.flatten().tolist()
    counts, current = [0], False
    for value in column_major:
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    assert mask_from_rle({"size": list(mask.shape), "counts": counts}, mask.shape).equal(mask)


def test_a_code_worked_out_by_hand_is_read():
    assert mask_from_rle({"size": [2, 3], "counts": [2, 1, 1, 2]}, (2, 3)).equal(MASK)


def test_runs_longer_than_one_character_and_differences_below_zero_are_read():
    mask = torch.zeros(70, 50, dtype=torch.bool)
    mask[3:68, 7:9] = True
    mask[1, 20] = mask[2, 30] = True
    code = coco.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    assert mask_from_rle({"size": [70, 50], "counts": code["counts"]}, (70, 50)).equal(mask)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([2, 1], "covers 3 pixels"),
        ([2, 1, 1, 3], "covers 7 pixels"),
        ([2, -1, 1, 4], "whole numbers"),
        ([2, 1.0, 1, 2], "whole numbers"),
        ([True, 5], "whole numbers"),
        ([2, 10**30], "whole numbers"),
        ([], "no runs"),
        ("", "damaged"),
        ("\x00\x01", "damaged"),
        ("é", "damaged"),
        ("P", "damaged"),  # announces another character
        ("o" * 40 + "0", "damaged"),  # one endless number
        ("nnnnnnnn0", "covers"),
    ],
)
def test_runs_that_do_not_fill_the_picture_are_refused(counts, said):
    with pytest.raises(InvalidInput, match=said):
        mask_from_rle({"size": [2, 3], "counts": counts}, (2, 3))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=30))
def test_any_text_as_counts_gives_a_mask_or_one_sentence(text):
    try:
        mask = mask_from_rle({"size": [5, 7], "counts": text}, (5, 7))
    except InvalidInput:
        return
    assert mask.shape == (5, 7)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"counts": "0"}, '"size" and "counts"'),
        ({"size": [2, 3], "counts": [6], "extra": 1}, "extra"),
        ({"size": [2], "counts": [6]}, "height, width"),
        ({"size": [2, "3"], "counts": [6]}, "height, width"),
        ({"size": [0, 3], "counts": [6]}, "height, width"),
        ({"size": [2, 3], "counts": 6}, "text or a list"),
    ],
)
def test_what_has_not_the_form_of_a_code_is_refused(code, said):
    with pytest.raises(InvalidInput, match=said):
        mask_from_rle(code, (2, 3))


def test_a_code_of_another_size_names_both_sizes():
    with pytest.raises(InvalidInput, match=r"3x2 .* 2x3"):
        mask_from_rle({"size": [3, 2], "counts": [6]}, (2, 3))


def test_a_code_that_claims_an_enormous_size_is_refused_before_it_is_drawn():
    with pytest.raises(InvalidInput, match="the picture is 2x3"):
        mask_from_rle({"size": [10**9, 10**9], "counts": [10**18 % 2**40]}, (2, 3))


def test_polygons_are_united():
    left, right = [0, 0, 2, 0, 2, 3, 0, 3], [4, 0, 5, 0, 5, 3, 4, 3]
    mask = mask_from_polygons([left, right], (3, 5))
    assert mask.tolist() == [[True, True, False, False, True]] * 3


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        ([], "empty"),
        ([0, 0, 2, 0, 2, 3], "flat list"),
        ([[0, 0, 2, 0]], "4 numbers"),
        ([[0, 0, 2, 0, 2, 3, 1]], "7 numbers"),
        ([[0, 0, 2, 0, 2, float("nan")]], "flat list"),
        ([[0, 0, 2, 0, 2, float("inf")]], "flat list"),
        ([[0, 0, 2, 0, 2, "3"]], "flat list"),
        ([[0, 0, 2, 0, 1e9, 3]], "far outside"),
        ([[0, 0, 2, 0, 2, 3], [0, 0, 2, 0, -1e9, 3]], "polygon 2"),
    ],
)
def test_a_wrong_polygon_is_refused(polygons, said):
    with pytest.raises(InvalidInput, match=said):
        mask_from_polygons(polygons, (3, 5))


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB"])
def test_a_png_mask_is_what_is_above_zero(tmp_path, mode):
    values = np.where(MASK.numpy(), 7, 0)
    if mode == "RGB":
        picture = Image.fromarray(np.stack([values, 0 * values, values], -1).astype(np.uint8))
    elif mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16) * 1000)
    elif mode == "1":
        picture = Image.fromarray(values > 0)
    else:
        picture = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        picture.putpalette([0, 0, 0] * 256)  # every colour black: the index counts
    picture.save(tmp_path / "mask.png")
    assert read_mask_png(tmp_path / "mask.png", (2, 3)).equal(MASK)


def test_a_png_mask_of_another_size_is_refused(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(InvalidInput, match=r"3x2 pixels, and its picture is 2x3"):
        read_mask_png(tmp_path / "mask.png", (3, 2))


def test_a_png_mask_with_transparency_is_refused(tmp_path):
    Image.new("RGBA", (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(InvalidInput, match="alpha"):
        read_mask_png(tmp_path / "mask.png", (2, 3))


def test_a_missing_foreign_or_cut_off_mask_is_one_sentence(tmp_path):
    with pytest.raises(InvalidInput, match="no mask"):
        read_mask_png(tmp_path / "none.png", (2, 3))
    Image.new("L", (3, 2)).save(tmp_path / "mask.jpg")
    with pytest.raises(InvalidInput, match="not a PNG"):
        read_mask_png(tmp_path / "mask.jpg", (2, 3))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(InvalidInput, match="cut"):
        read_mask_png(tmp_path / "cut.png", (64, 64))


def test_boxes_are_the_edges_of_what_is_set():
    stack = torch.zeros(2, 2, 4, 6, dtype=torch.bool)
    stack[0, 0, 1:3, 2:5] = True
    stack[1, 1, 3, 5] = True
    assert boxes_of_masks(stack).tolist() == [[[2, 1, 5, 3], [0] * 4], [[0] * 4, [5, 3, 6, 4]]]


@given(masks)
def test_every_set_pixel_lies_in_the_box_and_every_edge_touches_one(mask):
    x1, y1, x2, y2 = boxes_of_masks(mask).tolist()
    if mask.any():
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
    else:
        assert (x1, y1, x2, y2) == (0, 0, 0, 0)
