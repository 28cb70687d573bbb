"""`refseg predict`: pictures, videos and phrases in; masks, overlays and JSON lines out."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app
from refseg.errors import InvalidInput, RefsegError, UnknownName

if TYPE_CHECKING:
    from fractions import Fraction

    from torch import Tensor

    from refseg.cli._answers import AnswerFiles, ResultsFile
    from refseg.cli._explanations import Shown
    from refseg.cli._jobs import Job
    from refseg.cli._progress import Bars
    from refseg.media.video import StoredClip
    from refseg.media.video_stream import FrameStream
    from refseg.predictor import Predictor
    from refseg.streaming import Part

_MAX_PIXELS = (
    100_000_000  # as refseg.media.images and refseg.media.video, which cost too much to import for help
)
_MAX_FRAMES = 128
_WINDOW, _OVERLAP = 36, 6  # as refseg.streaming

_LOOKS = ("plain", "red")


@dataclass(frozen=True)
class ReadLimits:
    """How much of an input is read, and how much of it at once."""

    max_pixels: int = _MAX_PIXELS
    max_frames: int | None = None  # of a clip; None is _MAX_FRAMES where it is answered whole, else no limit
    every: int = 1
    window: int = _WINDOW  # frames of a clip that are answered together; 0 is all of them
    overlap: int = _OVERLAP
    height: int | None = None  # rows that a picture is resized to first; None leaves it as it is


@app.command()
def predict(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint's name (`refseg models` lists them) or file.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='INPUT... "PHRASE"...',
            help="Pictures, videos or folders that exist; then phrases.",
            show_default=False,
        ),
    ] = None,
    phrase: Annotated[
        list[str] | None,
        typer.Option("--phrase", "-p", help="A phrase; may be repeated. All arguments are then inputs."),
    ] = None,
    phrases: Annotated[Path | None, typer.Option(help="A text file of phrases, one a line.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for masks, overlays and results.jsonl.")
    ] = Path("refseg-out"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    offload: Annotated[
        bool,
        typer.Option("--offload", help="Large parts of the model wait on the CPU until they are needed."),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Scores above it are mask; default: the checkpoint's own.", min=0.0, max=1.0),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="A folder is one clip of its pictures; so are several pictures.")
    ] = False,
    every: Annotated[int, typer.Option(help="Take every N-th frame of a clip.", min=1)] = 1,
    window: Annotated[
        int,
        typer.Option(help="Answer longer clips in windows of N frames as they are read; 0: whole.", min=0),
    ] = _WINDOW,
    overlap: Annotated[int, typer.Option(help="Frames that two windows share.", min=0)] = _OVERLAP,
    max_frames: Annotated[
        int | None,
        typer.Option(
            help=f"Refuse clips with more frames to read; default: {_MAX_FRAMES} with --window 0.",
            min=1,
            show_default=False,
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(help="Refuse pictures with more pixels.", min=1)] = _MAX_PIXELS,
    height: Annotated[
        int | None,
        typer.Option(
            help="Resize pictures to this height first; VLFormer's demo takes 640. Answers have that size.",
            min=1,
            show_default=False,
        ),
    ] = None,
    look: Annotated[
        str,
        typer.Option(
            help="Of overlays: plain; or red, a red tint with a black line, as VLFormer's demo draws."
        ),
    ] = "plain",
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also draw how each answer came about, where the family can tell."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines on stdout, and nothing else.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files of the same name.")] = False,
) -> None:
    """Find the pixels that phrases refer to, in pictures and videos.

    refseg predict scout photo.jpg "the left dog" "the red ball"
    """
    from refseg.cli._answers import ResultsFile, answer_files, check_absent
    from refseg.cli._jobs import check_is_no_input, make_jobs, phrase_slugs, read_phrases, split_arguments
    from refseg.files import check_writable

    _check_windows(window, overlap)
    if look not in _LOOKS:
        raise UnknownName("look of overlays", look, _LOOKS)
    check_is_no_input(checkpoint, arguments or [])
    given = [*(phrase or []), *(read_phrases(phrases) if phrases else [])]
    inputs, asked = split_arguments(arguments or [], given)
    jobs = make_jobs(inputs, as_clip=clip)
    slugs = phrase_slugs(asked)
    files = {job.name: [answer_files(out, job.name, s, is_clip=job.is_clip) for s in slugs] for job in jobs}
    if not force:
        check_absent([entry for entries in files.values() for entry in entries])
    check_writable(out)
    results = ResultsFile.open(out)
    predictor = _ready(checkpoint, asked, threshold, device=device, dtype=dtype, offload=offload)
    if explain:
        predictor.check_explains()
    limits = ReadLimits(max_pixels, max_frames, every, window, overlap, height)
    tell = _print_json if as_json else partial(show_answer, folder=out)
    run = Run(predictor, asked, files, results, limits, tell, explains=explain, look=look)
    _report(run.answer_all(jobs), len(jobs), as_json)


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _ready(
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
    look: str = _LOOKS[0]  # of the overlays of pictures

    def answer_all(self, jobs: Sequence[Job]) -> list[tuple[str, str]]:
        """Titles and sentences of the inputs that could not be answered; the others are on disk."""
        from refseg.cli._progress import progress_bars

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
            if self.limits.height is not None or self.look != _LOOKS[0]:
                raise InvalidInput(
                    f"{job.title} is a clip, and --height and --look are for pictures; leave them out"
                )
            self._answer_clip(job, bars)
        else:
            self._answer_picture(job)

    def _answer_picture(self, job: Job) -> None:
        from refseg.cli._answers import image_record, write_image_answer
        from refseg.cli._explanations import Shown
        from refseg.media.images import read_image, with_height

        frame = read_image(job.paths[0], max_pixels=self.limits.max_pixels)
        if self.limits.height is not None:
            frame = with_height(frame[0], self.limits.height)[None]
        start = time.perf_counter()
        answers = self.predictor(frame, self.phrases)
        seconds = (time.perf_counter() - start) / len(answers)
        shown = [Shown(frame, 0, answer.masks[0].numpy()) for answer in answers]
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
        from refseg.cli._answers import record
        from refseg.cli._clips import clip_answer
        from refseg.cli._explanations import clearer
        from refseg.evaluation.bench import peak_bytes
        from refseg.media.video_stream import open_clip

        limits, files = self.limits, self.files[job.name]
        with ExitStack() as stack:
            clip = stack.enter_context(open_clip(job.paths, every=limits.every, max_pixels=limits.max_pixels))
            written = [stack.enter_context(clip_answer(entry, clip)) for entry in files]
            times: deque[Fraction] = deque()
            seconds, size, num_parts = 0.0, (0, 0), 0
            clearest: list[Shown | None] = [None] * len(files)
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
        frames = _taken(clip, times, job.title, limits)
        yield from stream(self.predictor, frames, self.phrases, window=limits.window, overlap=limits.overlap)

    def _explanations(
        self, shown: Sequence[Shown | None], files: Sequence[AnswerFiles]
    ) -> list[dict[str, Any]]:
        """What JSON lines tell of the sheets that explain each answer; nothing where none was asked for."""
        from refseg.cli._explanations import write_explanations

        if not self.explains:
            return [{} for _ in files]
        return write_explanations(self.predictor, self.phrases, shown, files)

    def _record(self, record: dict[str, Any]) -> None:
        self.results.add(record)
        self.tell(record)


def _check_windows(window: int, overlap: int) -> None:
    if window:
        from refseg.streaming import check_windows

        check_windows(window, overlap)


def _taken(clip: FrameStream, times: deque[Fraction], title: str, limits: ReadLimits) -> Iterator[Tensor]:
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

    most = limits.max_frames or _MAX_FRAMES
    if len(job.paths) > 1:
        taken = job.paths[:: limits.every]
        return join_pictures(taken, job.title, max_frames=most, max_pixels=limits.max_pixels)
    return read_clip(job.paths[0], every=limits.every, max_frames=most, max_pixels=limits.max_pixels)


def show_answer(record: dict[str, Any], folder: Path) -> None:
    """One line for people about an answer."""
    score = "" if record["score"] is None else f"  score {record['score']:.2f}"
    print(f"{record['input']}  {record['phrase']!r}{score}  {_where(record)}  {folder / record['overlay']}")


def _where(record: dict[str, Any]) -> str:
    if "frames" in record:
        return f"{record['num_frames']} frames"
    if "boxes" in record:
        count = sum(area > 0 for area in record["areas"])
        return f"in {count} of {len(record['boxes'])} frames" if count else "nothing found"
    if record["box"] is None:
        return "nothing found"
    return "box {}, {} to {}, {}".format(*record["box"])


def _report(failures: Sequence[tuple[str, str]], num_jobs: int, as_json: bool) -> None:
    """Tells what could not be answered, and ends with the exit code for it."""
    for title, sentence in failures:
        print(f"refseg: {sentence}", file=sys.stderr)
        if as_json:
            print(json.dumps({"input": title, "error": sentence}, ensure_ascii=False))
    if failures:
        if num_jobs > 1:
            print(f"refseg: {len(failures)} of {num_jobs} inputs could not be answered", file=sys.stderr)
        raise typer.Exit(1 if len(failures) < num_jobs else 2)
