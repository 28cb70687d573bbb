import numpy as np
import pytest
import torch
from PIL import Image

from refseg.errors import InvalidInput
from refseg.media.frames import as_frames

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


def test_every_form_of_a_picture_is_one_tensor():
    for form in (
        PIXELS,
        Image.fromarray(PIXELS),
        TENSOR,
        PIXELS / 255,
        TENSOR.half() / 255,
        PIXELS[:, ::-1][:, ::-1],
    ):
        assert torch.equal(as_frames(form), TENSOR[None])


def test_every_form_of_a_clip_is_one_tensor():
    wanted = torch.stack([TENSOR, TENSOR])
    for form in (
        [PIXELS, PIXELS],
        (TENSOR, Image.fromarray(PIXELS)),
        np.stack([PIXELS] * 2),
        wanted,
        wanted.double() / 255,
    ):
        assert torch.equal(as_frames(form), wanted)


def test_grey_arrays_and_tensors_become_three_channels():
    grey = PIXELS[..., 0]
    wanted = torch.from_numpy(grey).expand(1, 3, 5, 7)
    for form in (grey, grey[..., None], torch.from_numpy(grey)[None], grey / 255):
        assert torch.equal(as_frames(form), wanted)


def test_transparent_arrays_lie_on_white():
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0, 0] = (0, 0, 255, 255)
    frames = as_frames(clear)
    assert frames[0, :, 0, 0].tolist() == [0, 0, 255]
    assert (frames[0, :, 1] == 255).all()


def test_an_array_that_may_not_be_written_is_taken():
    fixed = PIXELS.copy()
    fixed.flags.writeable = False
    assert torch.equal(as_frames(fixed), TENSOR[None])


def test_the_callers_array_is_not_changed():
    floats = PIXELS / 255
    before = floats.copy()
    as_frames(floats)
    assert np.array_equal(floats, before)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((3, 5, 7), np.uint8), "channels come last"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), "channels come first"),
        (np.zeros((5, 7, 2), np.uint8), r"shape \[5, 7, 2\]"),
        (np.zeros((2, 5, 7), np.uint8), r"shape \[2, 5, 7\]"),
        (np.zeros(9, np.uint8), r"shape \[9\]"),
        (torch.zeros(5, 7), r"shape \[5, 7\]"),
        (np.zeros((1, 2, 5, 7, 3), np.uint8), r"shape \[1, 2, 5, 7, 3\]"),
        (PIXELS.astype(np.int64), "an array of int64 is ambiguous"),
        (PIXELS.astype(np.uint16), "an array of uint16 is ambiguous"),
        (TENSOR.int(), "a tensor of int32 is ambiguous"),
        (PIXELS > 5, "an array of bool is ambiguous"),
        (PIXELS.astype(np.float32), "go from 0 to 248; scale them"),
        (np.full((5, 7, 3), -0.1), "go from -0.1 to -0.1"),
        (np.full((5, 7, 3), np.nan), "go from nan to nan"),
        (np.zeros((0, 7, 3), np.uint8), "hold nothing"),
        (torch.zeros(0, 3, 5, 7), "hold nothing"),
        ([], "list of frames is empty"),
        ([PIXELS, PIXELS[:4]], "frame 0 is 7x5 and frame 1 is 7x4"),
        ([np.stack([PIXELS] * 2)], "entry 0 of the list holds 2 frames"),
        ([PIXELS, [PIXELS, PIXELS]], "entry 1 of the list holds 2 frames"),
        (None, "type NoneType"),
        ({"image": PIXELS}, "type dict"),
        (b"bytes", "type bytes"),
    ],
)
def test_what_is_no_picture_is_told_in_one_sentence(frames, message):
    with pytest.raises(InvalidInput, match=message) as error:
        as_frames(frames)
    assert "\n" not in str(error.value)


def test_a_path_of_a_folder_is_a_clip(tmp_path):
    for name in ("10.png", "9.png"):
        Image.new("RGB", (4, 3), (int(name[:-4]), 0, 0)).save(tmp_path / name)
    frames = as_frames(tmp_path)
    assert frames[:, 0, 0, 0].tolist() == [9, 10]


def test_the_orientation_of_an_opened_picture_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(as_frames(Image.open(tmp_path / "a.png")), as_frames(tmp_path / "a.png"))
    assert as_frames(tmp_path / "a.png").shape == (1, 3, 7, 5)
