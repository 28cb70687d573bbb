import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from refseg.errors import InvalidInput
from refseg.media.video import list_pictures, natural_key, read_clip
from refseg.media.video_write import write_video

TENTHS = [Fraction(n, 10) for n in range(6)]


def halves(height, width, level):
    """Left half of one grey level, right half white."""
    pixels = np.full((height, width, 3), level, np.uint8)
    pixels[:, width // 2 :] = 255
    return pixels


def video(path, count=6, height=32, width=48, times=None):
    times = times or TENTHS[:count]
    write_video(path, [halves(height, width, 20 * n) for n in range(count)], times, Fraction(10))
    return path


def near(frames, wanted, tolerance=6):
    """H.264 keeps flat areas to a few levels."""
    return int((frames.int() - torch.as_tensor(wanted).int()).abs().max()) <= tolerance


def test_a_written_video_is_read_back(tmp_path):
    clip = read_clip(video(tmp_path / "v.mp4"))
    assert clip.frames.shape == (6, 3, 32, 48) and clip.frames.dtype == torch.uint8
    assert near(clip.frames[:, 0, 16, 8], [0, 20, 40, 60, 80, 100])
    assert near(clip.frames[:, 0, 16, 40], [255] * 6)
    assert clip.times == tuple(TENTHS) and clip.rate == 10


def test_colours_come_back_and_are_tagged_for_players(tmp_path):
    pixels = np.empty((32, 48, 3), np.uint8)
    pixels[:] = (20, 200, 60)
    write_video(tmp_path / "v.mp4", [pixels], [Fraction(0)], Fraction(10))
    assert near(read_clip(tmp_path / "v.mp4").frames[0, :, 16, 24], [20, 200, 60], 4)
    with av.open(str(tmp_path / "v.mp4")) as container:
        (frame,) = container.decode(video=0)
        assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, studio range


def test_odd_sides_are_padded_to_even_ones_by_repetition(tmp_path):
    write_video(tmp_path / "odd.mp4", [halves(31, 45, 0)], [Fraction(0)], Fraction(10))
    clip = read_clip(tmp_path / "odd.mp4")
    assert clip.frames.shape == (1, 3, 32, 46)
    assert near(clip.frames[0, :, 31, 45], [255] * 3, 12)


def test_a_video_of_odd_size_keeps_it(tmp_path):
    """Formats other than ours have odd sides."""
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 45, 31, "bgr0"
        container.mux(
            stream.encode(
                av.VideoFrame.from_ndarray(halves(31, 45, 7), format="rgb24").reformat(format="bgr0")
            )
        )
        container.mux(stream.encode(None))
    clip = read_clip(tmp_path / "odd.mkv")
    assert np.array_equal(clip.frames[0].permute(1, 2, 0), halves(31, 45, 7))


def test_a_variable_frame_rate_keeps_the_time_of_each_frame(tmp_path):
    times = [Fraction(0), Fraction(1, 25), Fraction(1), Fraction(5, 2)]
    clip = read_clip(video(tmp_path / "v.mp4", count=4, times=times))
    assert [float(t) for t in clip.times] == pytest.approx([0, 0.04, 1, 2.5], abs=1e-4)


def test_every_third_frame_is_taken_from_the_first(tmp_path):
    clip = read_clip(video(tmp_path / "v.mp4"), every=3)
    assert near(clip.frames[:, 0, 16, 8], [0, 60])
    assert clip.times == (0, Fraction(3, 10)) and clip.rate == Fraction(10, 3)


def turn(path, a, b, c, d):
    """Writes the matrix of a track's header (ISO/IEC 14496-12, 8.3.2): x' = a x + c y, y' = b x + d y, with y downward."""
    content = bytearray(path.read_bytes())
    start = (
        content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    )  # version and flags, times and ids, reserved, layer to volume
    assert struct.unpack_from(">9i", content, start) == (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    one = 0x10000
    struct.pack_into(">9i", content, start, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


# Where the stored right half (white) is to be seen.
ROTATIONS = {
    "a quarter turn to the right": ((0, 1, -1, 0), lambda f: f[:, -4:, :]),
    "half a turn": ((-1, 0, 0, -1), lambda f: f[:, :, :4]),
    "a quarter turn to the left": ((0, -1, 1, 0), lambda f: f[:, :4, :]),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotation_metadata_is_applied(tmp_path, name):
    matrix, white_part = ROTATIONS[name]
    path = video(tmp_path / "phone.mp4", count=1)
    turn(path, *matrix)
    (frame,) = read_clip(path).frames
    assert frame.shape == ((3, 48, 32) if "quarter" in name else (3, 32, 48))
    assert white_part(frame).float().mean() > 245 and frame.float().mean() < 140


def test_a_clip_too_long_is_refused_with_numbers_that_work(tmp_path):
    path = video(tmp_path / "v.mp4")
    with pytest.raises(InvalidInput, match=r"about 6 frames.*limit of 4.*--every 2.*--max-frames"):
        read_clip(path, max_frames=4)
    assert len(read_clip(path, max_frames=4, every=2).frames) == 3


def test_a_video_whose_header_promises_nothing_is_bounded_too(tmp_path):
    with av.open(str(tmp_path / "v.ts"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for n in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(halves(32, 48, n), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidInput, match="limit of 4"):
        read_clip(tmp_path / "v.ts", max_frames=4)


def test_a_clip_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("refseg.media.video.MAX_CLIP_BYTES", 3 * 32 * 48 * 3)
    with pytest.raises(InvalidInput, match="more than 3 frames of 48x32"):
        read_clip(video(tmp_path / "v.mp4"))


def test_frames_larger_than_allowed_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"48x32 = 1,536 pixels.*--max-pixels"):
        read_clip(video(tmp_path / "v.mp4"), max_pixels=1500)


def test_a_folder_is_read_in_the_natural_order_of_names(tmp_path):
    for number in (10, 9, 1):
        Image.new("RGB", (4, 3), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "readme.txt").write_text("no picture")
    assert read_clip(tmp_path).frames[:, 0, 0, 0].tolist() == [1, 9, 10]


def test_natural_order_tells_equal_numbers_apart():
    assert sorted(["b2", "a10", "a2", "a02", "A1"], key=natural_key) == ["A1", "a02", "a2", "a10", "b2"]


def test_frames_of_different_sizes_are_refused_by_name(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "1.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "2.png")
    with pytest.raises(InvalidInput, match=r"1\.png is 4x3 and 2\.png is 4x5 pixels"):
        read_clip(tmp_path)


def test_an_animation_is_a_clip(tmp_path):
    frames = [Image.new("RGB", (8, 6), (level, 0, 0)) for level in (0, 90, 180, 250)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_clip(tmp_path / "a.webp", every=2).frames[:, 0, 0, 0].tolist() == [0, 180]
    with pytest.raises(InvalidInput, match="limit of 3"):
        read_clip(tmp_path / "a.webp", max_frames=3)


def cut(path):
    """The index of the frames without the frames; and the file ends in the middle of the index."""
    path.write_bytes(path.read_bytes()[:300])


PROBLEMS = {
    "there is no file": lambda p: None,
    "no video that can be read": lambda p: p.write_bytes(b"<html>not found</html>"),
    "no video track": lambda p: cut(video(p)),
    "holds no frame that can be read": lambda p: p.write_bytes(
        (whole := video(p).read_bytes())[: whole.index(b"mdat") + 4]
    ),
}


@pytest.mark.parametrize("message", PROBLEMS)
def test_a_video_that_cannot_be_read_is_told_in_one_sentence(tmp_path, message):
    path = tmp_path / "v.mp4"
    PROBLEMS[message](path)
    with pytest.raises(InvalidInput, match=message) as error:
        read_clip(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_video_cut_in_the_middle_is_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "v.mp4"
    write_video(path, noise, [Fraction(n, 10) for n in range(30)], Fraction(10))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"is cut short: 30 frames are promised"):
        read_clip(path)


def test_a_matroska_file_cut_in_the_middle_is_told_and_a_whole_one_is_read(tmp_path):
    path = tmp_path / "v.mkv"
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "bgr0"
        for pixels in noise:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(read_clip(path).frames) == 30
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"is cut short: 3\.0 seconds are promised, 1\.\d can be read"):
        read_clip(path)


def test_a_file_with_sound_alone_is_told(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidInput, match="no video track"):
        read_clip(tmp_path / "sound.mkv")


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="holds no pictures"):
        list_pictures(tmp_path)


def test_every_counts_from_one(tmp_path):
    with pytest.raises(InvalidInput, match="count from 1"):
        read_clip(tmp_path, every=0)


def test_a_video_that_fails_while_it_is_written_leaves_nothing(tmp_path):
    def pictures():
        yield halves(32, 48, 0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_video(Path(tmp_path / "v.mp4"), pictures(), TENTHS[:2], Fraction(10))
    assert list(tmp_path.iterdir()) == []


def test_frames_too_large_for_the_format_are_told(tmp_path):
    with pytest.raises(InvalidInput, match=r"cannot be written as H\.264"):
        write_video(tmp_path / "v.mp4", [np.zeros((2, 17_000, 3), np.uint8)], [Fraction(0)], Fraction(10))
    assert list(tmp_path.iterdir()) == []


def test_the_video_is_one_that_every_player_shows(tmp_path):
    with av.open(str(video(tmp_path / "v.mp4"))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    content = (tmp_path / "v.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is loaded whole
