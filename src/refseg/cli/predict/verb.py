"""`refseg predict`: pictures, videos and phrases in; masks, overlays and JSON lines out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app
from refseg.cli.predict.run import (
    LOOKS,
    MAX_FRAMES,
    MAX_PIXELS,
    OVERLAP,
    WINDOW,
    ReadLimits,
    Run,
    check_windows,
    prepare_run,
)
from refseg.errors import UnknownName

if TYPE_CHECKING:
    pass


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
    ] = WINDOW,
    overlap: Annotated[int, typer.Option(help="Frames that two windows share.", min=0)] = OVERLAP,
    max_frames: Annotated[
        int | None,
        typer.Option(
            help=f"Refuse clips with more frames to read; default: {MAX_FRAMES} with --window 0.",
            min=1,
            show_default=False,
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(help="Refuse pictures with more pixels.", min=1)] = MAX_PIXELS,
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
    from refseg.cli.predict.inputs import (
        check_is_no_input,
        make_jobs,
        phrase_slugs,
        read_phrases,
        split_arguments,
    )
    from refseg.cli.predict.outputs import ResultsFile, answer_files, check_absent, show_answer
    from refseg.files import check_writable

    check_windows(window, overlap)
    if look not in LOOKS:
        raise UnknownName("look of overlays", look, LOOKS)
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
    predictor = prepare_run(checkpoint, asked, threshold, device=device, dtype=dtype, offload=offload)
    if explain:
        predictor.check_explains()
    limits = ReadLimits(max_pixels, max_frames, every, window, overlap, height)
    tell = _print_json if as_json else partial(show_answer, folder=out)
    run = Run(predictor, asked, files, results, limits, tell, explains=explain, look=look)
    _report(run.answer_all(jobs), len(jobs), as_json)


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


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
