"""Videos written picture by picture, with the sound of their source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg.errors import InvalidInput
from refseg.files import whole_file

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame

_PTS_UNIT = Fraction(1, 90_000)  # the clock of MPEG, in which all usual rates are whole

# FFmpeg's numbers for them; untagged colours are guessed by each player in its own way.
_BT709, _STUDIO_RANGE = 1, 1

# Sound that MP4 files hold and players know; anything else is encoded anew, as AAC.
_KEPT_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # of what is encoded anew


def write_video(
    path: Path, pictures: Iterable[np.ndarray], times: Sequence[Fraction], rate: Fraction
) -> None:
    """Writes RGB pictures [H, W, 3] as a video; see `VideoWriter`.

    Arguments:
        times: seconds at which each picture is shown, rising from 0.
        rate: frames a second, on average.
    """
    with video_writer(path, rate) as writer:
        for picture, time in zip(pictures, times, strict=True):
            writer.add(picture, time)


@contextmanager
def video_writer(
    path: Path, rate: Fraction, *, sound: Path | None = None, sound_start: Fraction = Fraction(0)
) -> Iterator[VideoWriter]:
    """A video to which pictures are added; the file is whole when the block ends well, and else not there.

    Arguments:
        rate: frames a second, on average.
        sound: a file whose first sound track goes with the pictures.
        sound_start: the time in that file at which the first picture is shown.

    Raises:
        InvalidInput: if pictures cannot be written as H.264.
    """
    import av

    try:
        with whole_file(path) as temporary, ExitStack() as stack:
            options = {"movflags": "faststart"}
            output = stack.enter_context(av.open(str(temporary), "w", format="mp4", options=options))
            track = None
            if sound is not None:
                track = _Sound(output, stack.enter_context(av.open(str(sound))), sound_start)
            writer = VideoWriter(output, rate, track)
            yield writer
            writer.finish()
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise  # a full disk and the like, told by the command line
        raise InvalidInput(
            f"{path} cannot be written as H.264 video ({error.strerror}); are its frames larger than 16,384 pixels, or the "
            "sound of its source damaged?"
        ) from error


class VideoWriter:
    """H.264 (yuv420p) that every player shows. A picture is held until the next one tells how long it is shown.

    Odd sides are padded to even ones by repeating the last row or column, because the format knows no odd ones.
    """

    def __init__(self, output: Any, rate: Fraction, sound: _Sound | None) -> None:
        self._output, self._rate, self._sound = output, rate, sound
        self._stream: Any = None
        self._held: tuple[VideoFrame, Fraction] | None = None

    def add(self, picture: np.ndarray, time: Fraction) -> None:
        """The next picture [H, W, 3] RGB, shown at `time` seconds; times rise from 0."""
        if self._held is not None:
            self._write(time)
        self._held = (_even_frame(picture), time)

    def finish(self) -> None:
        """Writes what is held."""
        if self._held is None:
            return
        end = self._held[1] + 1 / self._rate
        self._write(end)
        self._output.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.write_until(end, is_last=True)

    def _write(self, end: Fraction) -> None:
        assert self._held is not None
        frame, start = self._held
        self._stream = self._stream or _video_output(self._output, frame, self._rate)
        frame.time_base, frame.pts = _PTS_UNIT, round(start / _PTS_UNIT)
        frame.duration = round((end - start) / _PTS_UNIT)
        self._output.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.write_until(end)


class _Sound:
    """The first sound track of a file, copied as it is where MP4 can hold it."""

    def __init__(self, output: Any, source: Any, start: Fraction) -> None:
        track = source.streams.audio[0]
        self._output, self._start, self._track = output, start, track
        self._is_kept = track.codec_context.codec.canonical_name in _KEPT_SOUND
        if self._is_kept:
            self._stream = output.add_stream_from_template(track)
        else:
            context = track.codec_context
            layout = _LAYOUTS.get(context.layout.nb_channels, "stereo")
            self._stream = output.add_stream("aac", rate=context.sample_rate, layout=layout)
        self._packets = source.demux(track)
        self._ahead: Any = None

    def write_until(self, end: Fraction, *, is_last: bool = False) -> None:
        """Writes the sound before `end` seconds of the pictures; none is left over after the last picture."""
        while (packet := self._ahead or next(self._packets, None)) is not None:
            self._ahead = None
            time = None if packet.pts is None else packet.pts * packet.time_base - self._start
            if time is not None and time >= end:
                self._ahead = None if is_last else packet
                break
            if time is not None and time >= 0:
                self._write(packet)
        if is_last and not self._is_kept:
            self._output.mux(self._stream.encode(None))

    def _write(self, packet: Any) -> None:
        unit = packet.time_base
        if self._is_kept:
            shift = round(self._start / unit)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._stream
            self._output.mux(packet)
            return
        for frame in packet.decode():
            frame.pts = None if frame.pts is None else frame.pts - round(self._start / frame.time_base)
            self._output.mux(self._stream.encode(frame))


def _even_frame(picture: np.ndarray) -> VideoFrame:
    """A picture [H, W, 3] as a frame of even sides, in the colours that players expect of HD video (BT.709)."""
    import av

    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _video_output(container: av.container.OutputContainer, frame: VideoFrame, rate: Fraction) -> Any:
    stream = container.add_stream(
        "libx264", rate=rate.limit_denominator(1_000_000), options={"crf": "18", "preset": "veryfast"}
    )
    stream.height, stream.width = frame.height, frame.width
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = _PTS_UNIT
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _STUDIO_RANGE
    return stream
