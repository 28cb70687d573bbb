import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from refseg.errors import InvalidInput
from refseg.prediction import Prediction


def answer(*masks, score=0.5):
    return Prediction("left dog", torch.as_tensor(np.stack(masks), dtype=torch.bool), score)


def rectangle(height, width, box):
    mask = np.zeros((height, width), bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    return mask


EMPTY = np.zeros((5, 7), bool)
CLIP = answer(rectangle(5, 7, (1, 2, 4, 3)), EMPTY, rectangle(5, 7, (0, 0, 7, 5)))


@pytest.mark.parametrize("box", [(0, 0, 7, 5), (2, 1, 3, 2), (6, 4, 7, 5), (1, 2, 4, 3)])
def test_the_box_is_the_edges_of_the_mask(box):
    assert answer(rectangle(5, 7, box)).box() == box


def test_an_empty_mask_has_no_box_and_no_area():
    empty = answer(EMPTY)
    assert empty.box() is None and empty.area() == 0 and empty.is_empty()


def test_a_clip_lists_boxes_areas_and_codes_by_frame():
    assert CLIP.boxes() == [(1, 2, 4, 3), None, (0, 0, 7, 5)]
    assert CLIP.areas() == [3, 0, 35]
    assert [rle["size"] for rle in CLIP.to_rles()] == [[5, 7]] * 3
    assert not CLIP.is_empty()


def test_one_frame_of_a_clip_is_asked_by_its_number():
    assert CLIP.box(0) == (1, 2, 4, 3) and CLIP.box(-1) == (0, 0, 7, 5) and CLIP.area(2) == 35


@pytest.mark.parametrize("ask", [Prediction.box, Prediction.area, Prediction.to_rle])
def test_a_clip_does_not_guess_which_frame_is_meant(ask):
    with pytest.raises(InvalidInput, match="3 frames; say which"):
        ask(CLIP)


@pytest.mark.parametrize("frame", [3, -4])
def test_a_frame_that_is_not_there_is_told(frame):
    with pytest.raises(InvalidInput, match=f"no frame {frame}"):
        CLIP.box(frame)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_run_length_code_gives_the_mask_back(height, width, data):
    runs = data.draw(st.lists(st.integers(1, 60), max_size=30))
    flat = np.zeros(height * width, bool)
    ends = np.cumsum(runs)
    for start, end in zip(ends[::2], ends[1::2], strict=False):
        flat[start:end] = True
    mask = flat.reshape(height, width)
    code = json.loads(json.dumps(answer(mask).to_rle()))
    assert code["size"] == [height, width]
    assert np.array_equal(coco.decode(code).astype(bool), mask)
    assert int(coco.area(code)) == answer(mask).area()


def test_the_code_counts_down_the_columns():
    """COCO's counts run column by column, beginning with the zeros; worked by hand for a 2x2 mask."""
    mask = np.array([[0, 1], [1, 1]], bool)  # columns: 0 1 | 1 1: one zero, three ones
    assert answer(mask).to_rle() == {"size": [2, 2], "counts": "13"}


def test_an_image_is_saved_as_one_png(tmp_path):
    answer(rectangle(5, 7, (1, 2, 4, 3))).save(tmp_path / "new" / "mask.png")
    pixels = np.array(Image.open(tmp_path / "new" / "mask.png"))
    assert np.array_equal(pixels, rectangle(5, 7, (1, 2, 4, 3)) * np.uint8(255))


def test_a_clip_is_saved_as_a_folder(tmp_path):
    CLIP.save(tmp_path / "masks")
    assert [p.name for p in sorted((tmp_path / "masks").iterdir())] == ["00000.png", "00001.png", "00002.png"]
    assert np.array(Image.open(tmp_path / "masks" / "00002.png")).min() == 255


def test_masks_are_saved_as_png_only(tmp_path):
    with pytest.raises(InvalidInput, match=r"ends in \.png"):
        answer(EMPTY).save(tmp_path / "mask.jpg")


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(InvalidInput, match="is a folder"):
        answer(EMPTY).save(tmp_path / "mask.png")


@pytest.mark.parametrize("name", ["mask.png", "file"])
def test_a_clip_is_not_saved_in_a_file(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="give a folder"):
        CLIP.save(tmp_path / name)


def test_the_overlay_of_an_image_is_a_picture_of_its_size():
    picture = answer(rectangle(48, 64, (10, 20, 30, 40))).overlay(np.full((48, 64, 3), 90, np.uint8))
    assert isinstance(picture, Image.Image) and picture.size == (64, 48)


def test_the_overlay_of_a_clip_is_a_list():
    pictures = CLIP.overlay(np.zeros((3, 5, 7, 3), np.uint8))
    assert [p.size for p in pictures] == [(7, 5)] * 3


def test_the_overlay_takes_frames_in_every_form(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    one = answer(rectangle(48, 64, (10, 20, 30, 40)))
    forms = [pixels, tmp_path / "a.png", Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)]
    drawn = [np.asarray(one.overlay(form)) for form in forms]
    assert all(np.array_equal(drawn[0], other) for other in drawn[1:])


def test_frames_of_another_size_or_number_are_refused():
    with pytest.raises(InvalidInput, match="1 of 7x5 pixels, and the frames given 2 of 7x4"):
        answer(EMPTY).overlay(np.zeros((2, 4, 7, 3), np.uint8))
