"""One run of `refseg predict`: job by job, clip by clip, answer by answer."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refseg.errors import InvalidInput, RefsegError

if TYPE_CHECKING:
    from fractions import Fraction

    from torch import Tensor

    from refseg.cli.predict.explanations import Explained
    from refseg.cli.predict.inputs import Job
    from refseg.cli.predict.outputs import AnswerFiles, ResultsFile
    from refseg.cli.progress import Bars
    from refseg.media.video import StoredClip
    from refseg.media.video_stream import FrameStream
    from refseg.predictor import Predictor
    from refseg.streaming import Part


MAX_PIXELS = (
    100_000_000  # as refseg.media.images and refseg.media.video, which cost too much to import for help
)


MAX_FRAMES = 128


WINDOW, OVERLAP = 36, 6  # as refseg.streaming


LOOKS = ("plain", "red")


@dataclass(frozen=True)
class ReadLimits:
    """How much of an input is read, and how much of it at once."""

    max_pixels: int = MAX_PIXELS
    max_frames: int | None = None  # of a clip; None is _MAX_FRAMES where it is answered whole, else no limit
    every: int = 1
    window: int = WINDOW  # frames of a clip that are answered together; 0 is all of them
    overlap: int = OVERLAP
    height: int | None = None  # rows that a picture is resized to first; None leaves it as it is


def prepare_run(
    checkpoint: str,
    phrases: Sequence[str],
    threshold: float | None,
    *,
    device: str,
    dtype: str,
    offload: bool,
) -> Predictor:
    """A predictor that is known to understand the phrases."""
    from refseg.predictor import check_phrases, load

    check_phrases(phrases)
    more = {"offload": True} if offload else {}
    predictor = load(checkpoint, device=device, dtype=dtype, **more)
    if threshold is not None:
        predictor.set_threshold(threshold)
    predictor.model.tokenize(phrases)  # a word it does not know is told before the first picture is read
    for sentence in predictor.cut_phrases(phrases):
        print(f"refseg: {sentence}", file=sys.stderr)
    return predictor


@dataclass
class Run:
    """One command's work: its inputs one after the other, each whole before the next."""

    predictor: Predictor
    phrases: Sequence[str]
    files: Mapping[str, Sequence[AnswerFiles]]  # by the job's name, one for each phrase
    results: ResultsFile
    limits: ReadLimits
    tell: Callable[[dict[str, Any]], None]  # about each answer that is on disk
    explains: bool = False  # whether a sheet tells how each answer came about
    look: str = LOOKS[0]  # of the overlays of pictures

    def answer_all(self, jobs: Sequence[Job]) -> list[tuple[str, str]]:
        """Titles and sentences of the inputs that could not be answered; the others are on disk."""
        from refseg.cli.progress import progress_bars

        failures = []
        try:
            with progress_bars() as bars:
                for job in bars.track(jobs, "inputs", len(jobs)):
                    try:
                        self.answer(job, bars)
                    except RefsegError as error:
                        failures.append((job.title, str(error)))
        finally:
            self.results.save()
        return failures

    def answer(self, job: Job, bars: Bars) -> None:
        """All phrases about one input, to disk."""
        if job.is_clip:
            if self.limits.height is not None or self.look != LOOKS[0]:
                raise InvalidInput(
                    f"{job.title} is a clip, and --height and --look are for pictures; leave them out"
                )
            self._answer_clip(job, bars)
        else:
            self._answer_picture(job)

    def _answer_picture(self, job: Job) -> None:
        from refseg.cli.predict.explanations import Explained
        from refseg.cli.predict.outputs import image_record, write_image_answer
        from refseg.media.images import read_image, with_height

        frame = read_image(job.paths[0], max_pixels=self.limits.max_pixels)
        if self.limits.height is not None:
            frame = with_height(frame[0], self.limits.height)[None]
        start = time.perf_counter()
        answers = self.predictor(frame, self.phrases)
        seconds = (time.perf_counter() - start) / len(answers)
        shown = [Explained(frame, 0, answer.masks[0].numpy()) for answer in answers]
        told = self._explanations(shown, self.files[job.name])
        for number, (answer, files) in enumerate(zip(answers, self.files[job.name], strict=True)):
            pixels = frame[0].permute(1, 2, 0).numpy()
            write_image_answer(files, pixels, answer, is_red=self.look == "red")
            facts = image_record(
                answer, files, title=job.title, checkpoint=self.predictor.label, seconds=seconds
            )
            self._record(facts | told[number])

    def _answer_clip(self, job: Job, bars: Bars) -> None:
        """Part by part: read, answered, drawn and written before the next."""
        from refseg.cli.predict.explanations import clearer
        from refseg.cli.predict.outputs import clip_answer, record
        from refseg.evaluation.bench import peak_bytes
        from refseg.media.video_stream import open_clip

        limits, files = self.limits, self.files[job.name]
        with ExitStack() as stack:
            clip = stack.enter_context(open_clip(job.paths, every=limits.every, max_pixels=limits.max_pixels))
            written = [stack.enter_context(clip_answer(entry, clip)) for entry in files]
            times: deque[Fraction] = deque()
            seconds, size, num_parts = 0.0, (0, 0), 0
            clearest: list[Explained | None] = [None] * len(files)
            start = time.perf_counter()
            for part in bars.count(self._parts(clip, job, times), "windows"):
                seconds += time.perf_counter() - start
                shown = [times.popleft() for _ in range(len(part.frames))]
                frames = [frame.permute(1, 2, 0).numpy() for frame in part.frames]
                size, num_parts = (part.frames.shape[-2], part.frames.shape[-1]), num_parts + 1
                for answer, output in zip(part.answers, written, strict=True):
                    output.add(frames, shown, answer, is_last=part.is_last)
                if self.explains:
                    clearest = [
                        clearer(old, part.frames, a) for old, a in zip(clearest, part.answers, strict=True)
                    ]
                start = time.perf_counter()
        each = seconds / len(files)
        told = self._explanations(clearest, files)
        for number, (phrase, entry, output) in enumerate(zip(self.phrases, files, written, strict=True)):
            facts = record(
                entry,
                title=job.title,
                phrase=phrase,
                score=output.score(),
                found=output.found(),
                size=size,
                checkpoint=self.predictor.label,
                seconds=each,
            )
            self._record(facts | told[number])
        if num_parts > 1:
            what = f"{job.title}: {written[0].num_frames} frames in {num_parts} windows"
            print(f"refseg: {what}, peak memory {peak_bytes() / 2**30:.1f} GiB", file=sys.stderr)

    def _parts(self, clip: FrameStream, job: Job, times: deque[Fraction]) -> Iterator[Part]:
        """The answers about a clip; the time of each frame that is taken is put into `times`."""
        from refseg.streaming import Part, stream

        limits = self.limits
        if not limits.window:
            stored = read_whole(job, limits)
            times += stored.times
            yield Part(0, stored.frames, self.predictor(stored.frames, self.phrases), is_last=True)
            return
        frames = _take_frames(clip, times, job.title, limits)
        yield from stream(self.predictor, frames, self.phrases, window=limits.window, overlap=limits.overlap)

    def _explanations(
        self, shown: Sequence[Explained | None], files: Sequence[AnswerFiles]
    ) -> list[dict[str, Any]]:
        """What JSON lines tell of the sheets that explain each answer; nothing where none was asked for."""
        from refseg.cli.predict.explanations import write_explanations

        if not self.explains:
            return [{} for _ in files]
        return write_explanations(self.predictor, self.phrases, shown, files)

    def _record(self, record: dict[str, Any]) -> None:
        self.results.add(record)
        self.tell(record)


def check_windows(window: int, overlap: int) -> None:
    """Refuses windows that cannot be; 0 answers a clip whole."""
    if window:
        from refseg.streaming import check_windows

        check_windows(window, overlap)


def _take_frames(
    clip: FrameStream, times: deque[Fraction], title: str, limits: ReadLimits
) -> Iterator[Tensor]:
    for number, frame in enumerate(clip.frames):
        if limits.max_frames is not None and number >= limits.max_frames:
            raise InvalidInput(
                f"{title} has more frames than the limit of {limits.max_frames}; take fewer (--every {2 * limits.every}), or "
                "raise or leave out the limit (--max-frames)"
            )
        times.append(frame.time)
        yield frame.pixels


def read_whole(job: Job, limits: ReadLimits) -> StoredClip:
    """All frames of a clip at once, refused where they are too many."""
    from refseg.media.video import join_pictures, read_clip

    most = limits.max_frames or MAX_FRAMES
    if len(job.paths) > 1:
        taken = job.paths[:: limits.every]
        return join_pictures(taken, job.title, max_frames=most, max_pixels=limits.max_pixels)
    return read_clip(job.paths[0], every=limits.every, max_frames=most, max_pixels=limits.max_pixels)
