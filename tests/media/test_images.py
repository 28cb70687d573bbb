import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from refseg.errors import InvalidInput
from refseg.media.images import image_size, read_animation, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels_of(path, **options):
    """[H, W, 3] of a file, as the reader sees it."""
    frame = read_image(path, **options)
    assert frame.ndim == 4 and frame.shape[:2] == (1, 3)
    return frame[0].permute(1, 2, 0).numpy()


def corners(height=6, width=10):
    """Black, with a red top left, a green top right and a blue bottom left quarter."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    return pixels


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


# Where the upright picture's top left corner is stored, by EXIF orientation, and the steps from the stored pixels to the
# upright ones; from the table of the EXIF standard (2.32, section 4.6.4, tag Orientation).
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2)[::-1, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1][::-1, ::-1],
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_each_exif_orientation_is_read_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](corners()))
    path = saved(tmp_path / "turned.png", Image.fromarray(stored), exif=exif)
    assert np.array_equal(pixels_of(path), corners())
    assert image_size(path) == (6, 10)


def test_a_palette_picture_has_its_colours(tmp_path):
    picture = Image.fromarray(corners()).quantize(4)
    assert np.array_equal(pixels_of(saved(tmp_path / "p.png", picture)), corners())


def test_a_transparent_palette_entry_lies_on_white(tmp_path):
    picture = Image.new("P", (5, 3), 1)
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((2, 1), 0)
    pixels = pixels_of(saved(tmp_path / "p.png", picture, transparency=0))
    assert tuple(pixels[1, 2]) == WHITE and tuple(pixels[0, 0]) == BLUE


def test_half_transparent_red_lies_on_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGBA", (5, 3), (255, 0, 0, 128)))
    assert np.abs(pixels_of(path)[0, 0].astype(int) - (255, 127, 127)).max() <= 1


def test_colours_hidden_under_full_transparency_do_not_show(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGBA", (5, 3), (255, 0, 0, 0)))
    assert (pixels_of(path) == 255).all()


def test_grey_with_transparency_lies_on_white(tmp_path):
    path = saved(tmp_path / "la.png", Image.new("LA", (5, 3), (0, 51)))
    assert np.abs(pixels_of(path).astype(int) - 204).max() <= 1


def test_a_colour_key_is_transparent(tmp_path):
    picture = Image.fromarray(corners())
    pixels = pixels_of(saved(tmp_path / "key.png", picture, transparency=RED))
    assert tuple(pixels[0, 0]) == WHITE and tuple(pixels[0, 9]) == GREEN


def test_one_bit_is_black_and_white(tmp_path):
    bits = Image.new("1", (5, 3), 0)
    bits.putpixel((4, 2), 1)
    pixels = pixels_of(saved(tmp_path / "bits.png", bits))
    assert pixels.sum() == 3 * 255 and tuple(pixels[2, 4]) == WHITE


def test_grey_is_the_same_in_three_channels(tmp_path):
    assert (pixels_of(saved(tmp_path / "l.png", Image.new("L", (5, 3), 77))) == 77).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_from_their_whole_range(tmp_path, suffix):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path / f"deep.{suffix}", Image.fromarray(values))
    assert pixels_of(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_big_endian_sixteen_bits_are_understood(tmp_path):
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5\n2 1\n65535\n" + struct.pack(">2H", 65535, 32768))
    assert pixels_of(path)[0, :, 0].tolist() == [255, 128]


def test_sixteen_bit_colour_keeps_its_colour(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 32768, 0, 65535, 0) for _ in range(2))
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 2, bits=16, kind=2, data=rows))
    assert np.abs(pixels_of(path)[0].astype(int) - [(255, 0, 128), (0, 255, 0)]).max() <= 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([1000.0, float("nan"), 3000.0], [0, 0, 255]),
    ],
)
def test_float_pictures_are_scaled_by_what_they_hold(tmp_path, values, wanted):
    path = saved(tmp_path / "f.tif", Image.fromarray(np.array([values], np.float32)))
    assert np.abs(pixels_of(path)[0, :, 0].astype(int) - wanted).max() <= 1


def test_thirty_two_bit_integers_are_stretched(tmp_path):
    values = np.array([[-1000, 0, 1000]], np.int32)
    path = saved(tmp_path / "i.tif", Image.fromarray(values))
    assert np.abs(pixels_of(path)[0, :, 0].astype(int) - [0, 128, 255]).max() <= 1


def test_a_float_picture_of_one_value_is_read(tmp_path):
    path = saved(tmp_path / "f.tif", Image.fromarray(np.full((3, 4), 7000.0, np.float32)))
    assert (pixels_of(path) == 0).all()


CMYK = {
    "cyan": ((255, 0, 0, 0), (0, 255, 255)),
    "yellow": ((0, 0, 255, 0), (255, 255, 0)),
    "black": ((0, 0, 0, 255), (0, 0, 0)),
}


@pytest.mark.parametrize("name", CMYK)
def test_cmyk_tiff_has_its_colours(tmp_path, name):
    inks, colour = CMYK[name]
    path = saved(tmp_path / "c.tif", Image.new("CMYK", (16, 16), inks))
    assert np.abs(pixels_of(path)[8, 8].astype(int) - colour).max() <= 2


@pytest.mark.parametrize("name", CMYK)
def test_cmyk_jpeg_with_inverted_inks_has_its_colours(tmp_path, name):
    """Adobe's JPEG stores ink the wrong way round and says so in a marker of its own, which Pillow writes too."""
    inks, colour = CMYK[name]
    path = saved(tmp_path / "c.jpg", Image.new("CMYK", (16, 16), inks), quality=95)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(pixels_of(path)[8, 8].astype(int) - colour).max() <= 4


def test_a_damaged_profile_of_cmyk_is_passed_over(tmp_path):
    path = saved(tmp_path / "c.tif", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), icc_profile=b"nonsense")
    assert tuple(pixels_of(path)[8, 8]) == (0, 255, 255)


def test_a_profile_for_other_channels_is_passed_over(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path / "c.tif", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), icc_profile=profile)
    assert tuple(pixels_of(path)[8, 8]) == (0, 255, 255)


def animated(path, colours):
    frames = [Image.new("RGB", (8, 6), colour) for colour in colours]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=100,
        loop=0,
        **({"lossless": True} if path.suffix == ".webp" else {}),
    )
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_of_an_animation_the_first_frame_is_the_picture(tmp_path, suffix):
    path = animated(tmp_path / f"moving{suffix}", [RED, GREEN, BLUE])
    assert tuple(pixels_of(path)[3, 3]) == RED


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_has_all_its_frames(tmp_path, suffix):
    path = animated(tmp_path / f"moving{suffix}", [RED, GREEN, BLUE])
    assert [tuple(f[0, :, 3, 3].tolist()) for f in read_animation(path)] == [RED, GREEN, BLUE]


def test_webp_and_bmp_keep_their_colours(tmp_path):
    picture = Image.fromarray(corners())
    assert np.array_equal(pixels_of(saved(tmp_path / "a.webp", picture, lossless=True)), corners())
    assert np.array_equal(pixels_of(saved(tmp_path / "a.bmp", picture)), corners())


@pytest.mark.parametrize("size", [(1, 1), (1, 301), (301, 1)])
def test_pictures_of_one_row_or_column_are_read(tmp_path, size):
    path = saved(tmp_path / "thin.png", Image.new("RGB", size, RED))
    assert pixels_of(path).shape == (size[1], size[0], 3)


# ---- what cannot be read


def png(width, height, *, bits=8, kind=0, data=b"\0\0"):
    """A PNG file made by hand."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def told(path, **options):
    with pytest.raises(InvalidInput) as error:
        read_image(path, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def test_a_missing_file_is_told(tmp_path):
    assert "there is no file" in told(tmp_path / "absent.png")


def test_a_folder_is_told(tmp_path):
    assert "is a folder" in told(tmp_path)


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "empty file" in told(tmp_path / "empty.jpg")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_told(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert "not a picture" in told(tmp_path / "a.png") or "damaged" in told(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_truncated_picture_is_told(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"cut.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in told(path) or "not a picture" in told(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    sentence = told(tmp_path / "bomb.png")
    assert "60000x60000" in sentence and "3,600,000,000" in sentence and "--max-pixels" in sentence


def test_the_limit_can_be_raised_beyond_that_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = saved(tmp_path / "large.png", Image.fromarray(corners()))
    assert pixels_of(path, max_pixels=60).shape == (6, 10, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_limit_counts_a_picture_of_just_this_size_as_allowed(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(corners()))
    pixels_of(path, max_pixels=60)
    assert "limit of 59" in told(path, max_pixels=59)


def test_a_picture_without_area_is_told(tmp_path):
    (tmp_path / "flat.png").write_bytes(png(0, 5))
    assert "no area" in told(tmp_path / "flat.png") or "not a picture" in told(tmp_path / "flat.png")


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.fromarray(corners()))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    assert "may not be read by this user" in told(path)


def test_a_name_that_no_file_can_have_is_told():
    assert "there is no file" in told(Path("a" * 5000 + ".png"))
