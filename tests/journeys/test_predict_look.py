"""`refseg predict` as VLFormer's demo shows its answers: pictures of one height, red masks with a black line."""

import numpy as np
import pytest
from PIL import Image

from helpers.run_cli import load as load_seeing


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refseg.predictor.load", load_seeing)
    pixels = np.full((64, 96, 3), 100, np.uint8)
    pixels[10:30, 20:60] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def test_a_red_look_has_no_words_and_a_line_of_one_pixel(here, refseg):
    code, _, _ = refseg("predict", "any", "photo.png", "the red", "--look", "red")
    assert code == 0
    drawn = np.asarray(Image.open(here / "refseg-out" / "photo--the-red.overlay.png"))
    mask = np.asarray(Image.open(here / "refseg-out" / "photo--the-red.mask.png")) > 0
    top, left = (int(places.min()) for places in mask.nonzero())
    assert drawn[top + 2, left + 2].tolist() == [255, 0, 0]  # red on red
    assert drawn[top - 1, left + 2].tolist() == [0, 0, 0]
    assert drawn[top - 2, left + 2].tolist() == [100, 100, 100]
    assert drawn[-5:].max() == 100  # no words below


def test_a_height_resizes_the_picture_first_and_the_answer_has_that_size(here, refseg):
    code, _, _ = refseg("predict", "any", "photo.png", "the red", "--height", "32")
    assert code == 0
    for kind in ("mask", "overlay"):
        assert Image.open(here / "refseg-out" / f"photo--the-red.{kind}.png").size == (48, 32)


def test_an_unknown_look_is_told_at_once(refseg):
    code, _, err = refseg("predict", "any", "photo.png", "the red", "--look", "redd")
    assert code == 2
    assert "did you mean 'red'" in err


@pytest.mark.parametrize("option", [("--look", "red"), ("--height", "32")])
def test_clips_are_told_that_both_are_for_pictures(here, refseg, option):
    folder = here / "clip"
    folder.mkdir()
    for number in (0, 1):
        Image.open(here / "photo.png").save(folder / f"{number}.png")
    code, _, err = refseg("predict", "any", "clip", "the red", "--clip", *option)
    assert code == 2
    assert "are for pictures" in err
