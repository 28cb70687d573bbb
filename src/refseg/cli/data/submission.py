"""`refseg data check-submission`: what a server would refuse, told before the upload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refseg.cli.data.group import verbs


@verbs.command(name="check-submission")
def check_submission(
    *,
    file: Annotated[Path, typer.Argument(help="The archive, or for Ref-DAVIS17 the folder.")],
    dataset: Annotated[str, typer.Option(help="ref-youtube-vos, mevis or ref-davis17.")],
    root: Annotated[Path, typer.Option(help="The folder of the data set: it says what must be there.")],
    split: Annotated[str | None, typer.Option(help="The part that was answered; default: valid.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a submission against its data set: names, sizes, kinds of picture, missing and needless files.

    refseg data check-submission davis-server.zip --dataset ref-youtube-vos --root data/ref-youtube-vos
    """
    from refseg.data.catalog import open_dataset
    from refseg.evaluation.submission import layout_of
    from refseg.evaluation.submission_check import check_submission as run_check
    from refseg.evaluation.submission_check import expected_videos

    layout_of(dataset)
    videos = expected_videos(open_dataset(dataset, split=split or "valid", root=root))
    findings = run_check(file, dataset, videos)
    if as_json:
        print(
            json.dumps(
                {"ready": not findings.counts, "findings": findings.counts, "examples": findings.examples}
            )
        )
    elif findings.counts:
        print("\n".join(findings.lines()))
    else:
        phrases, frames = sum(len(v.expressions) for v in videos), sum(len(v.frames) for v in videos)
        print(f"{file} is complete: {len(videos)} videos, {phrases} phrases, {frames} frames")
    if findings.counts:
        raise typer.Exit(1)
