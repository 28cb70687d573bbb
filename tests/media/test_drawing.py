import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.media.drawing import (
    TINTS,
    choose_tint,
    contact_sheet,
    draw_label,
    draw_overlays,
    lay_label,
    save_mask,
    tint_mask,
)

GREY = 90


def plain(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def disc(height, width, centre=(0.5, 0.5), radius=0.25):
    y, x = np.mgrid[:height, :width]
    return ((x + 0.5) / width - centre[0]) ** 2 + ((y + 0.5) / height - centre[1]) ** 2 < radius**2


def overlay(pixels, mask, phrase="left dog"):
    return np.asarray(next(draw_overlays([pixels], mask[None], phrase)))


def test_the_tint_covers_the_mask_and_nothing_far_from_it():
    mask = disc(200, 200)
    drawn = tint_mask(plain(200, 200), mask)
    assert (drawn[100, 100] == np.round(GREY * 0.55 + np.array(TINTS[0]) * 0.45)).all()
    assert (drawn[:40] == GREY).all() and (drawn[-40:] == GREY).all()


@pytest.mark.parametrize("ground", [0, GREY, 255])
def test_the_contour_is_a_light_line_and_then_a_dark_one_outside_the_mask(ground):
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    drawn = tint_mask(np.full((100, 100, 3), ground, np.uint8), mask)
    assert drawn[50, 60].min() == 255
    assert drawn[50, 61].max() < 40 and tuple(drawn[50, 62]) == (ground,) * 3


def coloured(*colours):
    """One frame of each colour, and masks over the middle of them."""
    mask = np.zeros((len(colours), 60, 81), bool)
    mask[:, 20:40, 20:60] = True
    return [np.full((60, 81, 3), colour, np.uint8) for colour in colours], mask


ORANGE, GRASS, ROSE, SKY = (240, 110, 20), (60, 140, 50), (230, 60, 130), (90, 170, 250)


@pytest.mark.parametrize(
    ("colour", "tint"),
    [
        ((0, 0, 0), 0),
        ((128, 128, 128), 0),
        ((255, 255, 255), 0),
        (GRASS, 0),
        (ORANGE, 1),
        (ROSE, 1),
        (SKY, 0),
    ],
)
def test_the_tint_is_pink_unless_the_object_is_nearly_so(colour, tint):
    assert choose_tint(*coloured(colour)) == TINTS[tint]


def test_only_the_object_decides_the_tint():
    (frame,), masks = coloured(GRASS)
    frame[~masks[0]] = ROSE
    assert choose_tint([frame], masks) == TINTS[0]


def test_a_clip_has_one_tint_for_all_frames():
    frames, masks = coloured(ORANGE, ORANGE, GRASS)
    drawn = [np.asarray(p) for p in draw_overlays(frames, masks, "dog")]
    tint = np.array(choose_tint(frames, masks))
    for frame, colour in zip(drawn, (ORANGE, ORANGE, GRASS), strict=True):
        assert np.abs(frame[30, 40] - (np.array(colour) * 0.55 + tint * 0.45)).max() <= 1


def test_a_clip_without_any_mask_has_a_tint_too():
    frames, masks = coloured(GRASS)
    assert choose_tint(frames, masks & False) == TINTS[0]


def test_the_picture_given_is_not_changed():
    pixels = plain(50, 50)
    tint_mask(pixels, disc(50, 50))
    assert (pixels == GREY).all()


def test_an_empty_mask_leaves_the_picture():
    assert np.array_equal(tint_mask(plain(30, 40), np.zeros((30, 40), bool)), plain(30, 40))


@pytest.mark.parametrize("size", [(128, 128), (480, 640), (800, 480), (3000, 4000)])
def test_letters_grow_with_the_picture(size):
    label = lay_label("left dog", size)
    assert len(label.lines) == 1
    assert label.line_height >= 11
    assert 1 / 50 < label.line_height / min(size) < 1 / 7


PHRASES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=120).filter(
    str.strip
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), PHRASES)
def test_any_phrase_fits_a_picture_of_any_size(height, width, phrase):
    picture = Image.fromarray(plain(height, width))
    label = lay_label(phrase, (height, width))
    draw_label(picture, label)
    assert picture.size == (width, height)
    if height >= 40:
        assert len(label.lines) * label.line_height + 2 * label.margin <= max(
            0.4 * height, label.line_height + 2 * label.margin
        )


def test_every_word_of_a_phrase_that_fits_is_printed():
    phrase = "the small brown dog that lies nearest to the person on the right"
    label = lay_label(phrase, (480, 640))
    assert " ".join(label.lines) == phrase


def test_a_phrase_too_long_to_print_says_so():
    label = lay_label("word " * 200, (128, 128))
    assert label.lines[-1].endswith("...")


def test_a_word_longer_than_the_picture_is_broken():
    label = lay_label("x" * 60, (300, 128))
    assert "".join(label.lines) == "x" * 60 and len(label.lines) > 1


def test_line_breaks_and_tabs_of_a_phrase_are_spaces():
    assert lay_label("left\n\tdog", (480, 640)).lines == ("left dog",)


def test_the_label_goes_where_it_hides_less_of_the_mask():
    top, bottom = disc(100, 100, (0.5, 0.1)), disc(100, 100, (0.5, 0.9))
    assert not lay_label("dog", (100, 100), top).is_on_top
    assert lay_label("dog", (100, 100), bottom).is_on_top


def test_the_label_stays_in_one_place_through_a_clip():
    masks = np.stack([disc(100, 100, (0.85, y), 0.1) for y in (0.1, 0.12, 0.9)])
    beside = [np.asarray(p)[:, :70] for p in draw_overlays([plain(100, 100)] * 3, masks, "dog")]
    assert beside[0].max() > 200  # the label's ink
    assert all(np.array_equal(beside[0], frame) for frame in beside[1:])


def test_the_phrase_can_be_read():
    """White ink on a dark box, and more ink for more letters."""
    drawn = overlay(plain(480, 640), disc(480, 640))
    more = overlay(plain(480, 640), disc(480, 640), "left dog with a stick")
    ink = [int((d.min(-1) > 200).sum()) for d in (drawn, more)]
    assert 200 < ink[0] < ink[1]


def test_an_answer_that_found_nothing_says_so():
    empty = np.zeros((200, 300), bool)
    said = overlay(plain(200, 300), empty, "unicorn")
    assert np.array_equal(said, overlay(plain(200, 300), empty, "unicorn"))
    label = lay_label("unicorn: nothing found", (200, 300))
    picture = Image.fromarray(plain(200, 300))
    draw_label(picture, label)
    assert np.array_equal(said, np.asarray(picture))


def test_letters_that_no_font_draws_are_replaced_and_seen():
    (line,) = lay_label("a \U0010fffd b", (480, 640)).lines
    assert line in ("a ? b", "a \u25a1 b")


def test_accents_are_printed_as_they_are():
    assert lay_label("café à gauche", (480, 640)).lines == ("café à gauche",)


def test_a_mask_file_is_255_and_0(tmp_path):
    mask = disc(31, 17)
    save_mask(mask, tmp_path / "m.png")
    stored = Image.open(tmp_path / "m.png")
    assert stored.mode == "L" and np.array_equal(np.array(stored), mask * np.uint8(255))


def test_a_sheet_shows_all_pictures_in_rows():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (40, 20), c) for c in colours], columns=2, side=100, gap=10)
    assert sheet.size == (230, 230)
    centres = [sheet.getpixel(p) for p in ((60, 60), (170, 60), (60, 170))]
    assert centres == colours
    assert sheet.getpixel((170, 170)) == (255, 255, 255)
