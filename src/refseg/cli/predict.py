"""`refseg predict`: pictures, videos and phrases in; masks, overlays and JSON lines out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app
from refseg.errors import RefsegError

if TYPE_CHECKING:
    from refseg.cli._answers import AnswerFiles, ResultsFile
    from refseg.cli._jobs import Job
    from refseg.cli._progress import Bars
    from refseg.data.video import StoredClip
    from refseg.predictor import Predictor

_MAX_PIXELS = (
    100_000_000  # as refseg.data.images and refseg.data.video, which cost too much to import for help
)
_MAX_FRAMES = 128


@dataclass(frozen=True)
class ReadLimits:
    """How much of an input is read."""

    max_pixels: int = _MAX_PIXELS
    max_frames: int = _MAX_FRAMES
    every: int = 1


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
    threshold: Annotated[
        float | None,
        typer.Option(help="Scores above it are mask; default: the checkpoint's own.", min=0.0, max=1.0),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="A folder is one clip of its pictures; so are several pictures.")
    ] = False,
    every: Annotated[int, typer.Option(help="Take every N-th frame of a clip.", min=1)] = 1,
    max_frames: Annotated[
        int, typer.Option(help="Refuse clips with more frames to read.", min=1)
    ] = _MAX_FRAMES,
    max_pixels: Annotated[int, typer.Option(help="Refuse pictures with more pixels.", min=1)] = _MAX_PIXELS,
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
    predictor = _ready(checkpoint, asked, device, dtype, threshold)
    limits = ReadLimits(max_pixels, max_frames, every)
    run = Run(
        predictor, asked, files, results, limits, _print_json if as_json else partial(show_answer, folder=out)
    )
    _report(run.answer_all(jobs), len(jobs), as_json)


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _ready(
    checkpoint: str, phrases: Sequence[str], device: str, dtype: str, threshold: float | None
) -> Predictor:
    """A predictor that is known to understand the phrases."""
    from refseg.predictor import check_phrases, load

    check_phrases(phrases)
    predictor = load(checkpoint, device=device, dtype=dtype)
    if threshold is not None:
        predictor.set_threshold(threshold)
    predictor.model.tokenize(phrases)  # a word it does not know is told before the first picture is read
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
        from refseg.cli._answers import answer_record, write_clip_answer, write_image_answer

        clip = read_job(job, self.limits)
        start = time.perf_counter()
        answers = self.predictor(clip.frames, self.phrases)
        seconds = (time.perf_counter() - start) / len(answers)
        for answer, files in zip(answers, self.files[job.name], strict=True):
            if job.is_clip:
                write_clip_answer(files, clip, answer, bars)
            else:
                write_image_answer(files, clip.frames[0].permute(1, 2, 0).numpy(), answer)
            times = [float(t) for t in clip.times] if job.is_clip else None
            record = answer_record(
                answer, files, title=job.title, checkpoint=self.predictor.label, seconds=seconds, times=times
            )
            self.results.add(record)
            self.tell(record)


def read_job(job: Job, limits: ReadLimits) -> StoredClip:
    """The frames of a job; a picture is a clip of one frame."""
    from fractions import Fraction

    from refseg.data.images import read_image
    from refseg.data.video import StoredClip, join_pictures, read_clip

    if not job.is_clip:
        return StoredClip(read_image(job.paths[0], max_pixels=limits.max_pixels), (Fraction(0),), Fraction(1))
    if len(job.paths) > 1:
        taken = job.paths[:: limits.every]
        return join_pictures(taken, job.title, max_frames=limits.max_frames, max_pixels=limits.max_pixels)
    return read_clip(
        job.paths[0], every=limits.every, max_frames=limits.max_frames, max_pixels=limits.max_pixels
    )


def show_answer(record: dict[str, Any], folder: Path) -> None:
    """One line for people about an answer."""
    score = "" if record["score"] is None else f"  score {record['score']:.2f}"
    print(f"{record['input']}  {record['phrase']!r}{score}  {_where(record)}  {folder / record['overlay']}")


def _where(record: dict[str, Any]) -> str:
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
