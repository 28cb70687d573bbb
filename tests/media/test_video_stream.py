"""Clips read and written frame by frame: every kind of file that people have, with its times and its sound."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from media.test_video import turn
from refseg.errors import InvalidInput
from refseg.media.video import read_clip
from refseg.media.video_stream import open_clip
from refseg.media.video_write import video_writer, write_video

UNEVEN = [Fraction(n, 100) for n in (0, 4, 20, 27, 60, 90)]
RATE = 16_000


def picture(number, height=32, width=48):
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[:, : 4 + 4 * number] = 220
    return pixels


def silent(path, times=UNEVEN, height=32, width=48):
    write_video(path, [picture(n, height, width) for n in range(len(times))], times, Fraction(10))
    return path


def tone(start, count):
    """Samples of a sound that grows louder with each second."""
    at = (np.arange(start, start + count)) / RATE
    return (np.sin(2 * np.pi * 440 * at) * (0.1 + 0.2 * np.floor(at))).astype(np.float32)


def with_sound(path, *, codec="aac", seconds=3, rate=10, first_picture=0):
    """A video with a tone; its pictures begin with picture number `first_picture` of a steady rate."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=rate)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = output.add_stream(codec, rate=RATE, layout="mono")
        for number in range(first_picture, seconds * rate):
            frame = av.VideoFrame.from_ndarray(picture(number % 10), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, rate), number
            output.mux(video.encode(frame))
        size = audio.codec_context.frame_size or 1024
        for start in range(0, seconds * RATE, size):
            samples = tone(start, size)
            if codec.startswith("pcm"):
                samples = (samples * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(
                samples[None], format="s16" if codec.startswith("pcm") else "fltp", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            output.mux(audio.encode(frame))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))
    return path


def copied(source, target, **options):
    """The pictures and the sound of a clip, as `predict` writes its overlay."""
    with (
        open_clip([source], **options) as clip,
        video_writer(target, clip.rate, sound=clip.sound, sound_start=clip.sound_start) as writer,
    ):
        for frame in clip.frames:
            writer.add(frame.pixels.permute(1, 2, 0).numpy(), frame.time)
    return target


def heard(path):
    """Samples of a file's sound and where they begin, in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.audio[0]))
    samples = np.concatenate([frame.to_ndarray().astype(np.float32).reshape(-1) for frame in frames])
    return samples / (32767 if frames[0].format.name.startswith("s16") else 1), float(frames[0].time)


def loudness(samples, start, second):
    """Mean square of the middle half of a second."""
    first = round((second + 0.25 - start) * RATE)
    return float(np.square(samples[first : first + RATE // 2]).mean())


@pytest.mark.parametrize("every", [1, 2])
def test_a_stream_gives_the_frames_and_times_of_a_whole_reading(tmp_path, every):
    path = silent(tmp_path / "v.mp4")
    whole = read_clip(path, every=every)
    with open_clip([path], every=every) as clip:
        frames = list(clip.frames)
    assert torch.equal(torch.stack([frame.pixels for frame in frames]), whole.frames)
    assert tuple(frame.time for frame in frames) == whole.times
    assert clip.rate == whole.rate
    assert clip.sound is None


def test_times_that_fall_are_made_to_rise(tmp_path):
    from refseg.media.video_stream import _rising

    told = [Fraction(1), Fraction(2), None, Fraction(2), Fraction(9)]
    given = ((str(n), picture(0), time) for n, time in enumerate(told))
    assert [time for _, _, time in _rising(given, Fraction(2))] == [0, 1, 1.5, 2, 8]


def test_folders_and_lists_of_pictures_and_animations_are_streams_too(tmp_path):
    for name, shade in (("10.png", 3), ("9.png", 2), ("1.png", 1)):
        Image.new("RGB", (8, 6), (shade,) * 3).save(tmp_path / name)
    Image.new("RGB", (8, 6), (9, 9, 9)).save(
        tmp_path / "a.webp",
        save_all=True,
        append_images=[Image.new("RGB", (8, 6), (200, 200, 200))],
        lossless=True,
    )
    shades = []
    for paths in ([tmp_path / "a.webp"], [tmp_path / "9.png", tmp_path / "1.png"]):
        with open_clip(paths) as clip:
            shades.append([int(frame.pixels[0, 0, 0]) for frame in clip.frames])
    assert shades == [[9, 200], [2, 1]]
    (tmp_path / "a.webp").unlink()
    with open_clip([tmp_path]) as clip:
        frames = list(clip.frames)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [1, 2, 3]
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(2, 10)]


def test_pictures_of_two_sizes_are_refused_where_the_size_changes(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    Image.new("RGB", (9, 6)).save(tmp_path / "2.png")
    with open_clip([tmp_path]) as clip:
        next(clip.frames)
        with pytest.raises(InvalidInput, match=r"8x6 and 2\.png is 9x6"):
            next(clip.frames)


@pytest.mark.parametrize("name", ["absent.mp4", "text.mp4"])
def test_what_is_no_video_is_refused_in_a_sentence(tmp_path, name):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InvalidInput, match=name), open_clip([tmp_path / name]):
        pass


def test_every_counts_from_one(tmp_path):
    with pytest.raises(InvalidInput, match="counts from 1"), open_clip([tmp_path], every=0):
        pass


@pytest.mark.parametrize(
    ("file", "codec", "kept"),
    [("v.mp4", "aac", "aac"), ("v.mkv", "pcm_s16le", "aac"), ("v.avi", "mp3", "mp3")],
)
def test_sound_is_kept_and_stays_in_step(tmp_path, file, codec, kept):
    source = with_sound(tmp_path / file, codec=codec)
    target = copied(source, tmp_path / "out.mp4")
    with av.open(str(target)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == kept
        assert abs(container.streams.audio[0].duration * container.streams.audio[0].time_base - 3) < 0.2
    there, here = heard(source), heard(target)
    for second in range(3):
        assert loudness(*here, second) == pytest.approx(loudness(*there, second), rel=0.1)
    assert loudness(*here, 2) > 2 * loudness(*here, 0)


def test_sound_begins_where_the_first_picture_is_shown(tmp_path):
    # The pictures begin one second after the sound; so the copy begins with the sound's second second.
    source = with_sound(tmp_path / "late.mkv", first_picture=10)
    there, here = heard(source), heard(copied(source, tmp_path / "out.mp4"))
    assert loudness(*here, 0) == pytest.approx(loudness(*there, 1), rel=0.15)


def test_sound_ends_with_the_pictures(tmp_path):
    source = with_sound(tmp_path / "v.mp4", seconds=3)
    with open_clip([source]) as clip, video_writer(tmp_path / "o.mp4", clip.rate, sound=source) as writer:
        for frame, _ in zip(clip.frames, range(10), strict=False):
            writer.add(frame.pixels.permute(1, 2, 0).numpy(), frame.time)
    samples, start = heard(tmp_path / "o.mp4")
    assert start + len(samples) / RATE == pytest.approx(1.0, abs=0.15)


def test_uneven_times_and_odd_sides_come_through(tmp_path):
    source = silent(tmp_path / "odd.mp4", height=31, width=45)
    target = copied(source, tmp_path / "out.mp4")
    clip = read_clip(target)
    assert clip.frames.shape[-2:] == (32, 46)
    assert clip.times == tuple(UNEVEN)


def test_rotation_is_applied_to_every_frame(tmp_path):
    source = silent(tmp_path / "phone.mp4")
    turn(source, 0, 1, -1, 0)  # a quarter to the right
    with open_clip([source]) as clip:
        frames = [frame.pixels for frame in clip.frames]
    assert {tuple(frame.shape) for frame in frames} == {(3, 48, 32)}
    assert torch.equal(torch.stack(frames), read_clip(source).frames)


def test_a_writing_that_fails_leaves_no_file(tmp_path):
    def fails():
        with video_writer(tmp_path / "v.mp4", Fraction(10)) as writer:
            writer.add(picture(0), Fraction(0))
            raise InvalidInput("the reader failed")

    with pytest.raises(InvalidInput, match="reader failed"):
        fails()
    assert list(tmp_path.iterdir()) == []
