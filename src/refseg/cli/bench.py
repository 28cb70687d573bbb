"""`refseg bench`: what a checkpoint costs in time and memory, stage by stage."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Annotated

import typer

from refseg.cli import app
from refseg.cli.progress import progress_bars
from refseg.errors import InvalidInput


@app.command()
def bench(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint's name or file; or FAMILY/VARIANT, with random weights.")
    ],
    size: Annotated[
        list[str] | None, typer.Option(help="HEIGHTxWIDTH of the frames; may be repeated. Default: 480x640.")
    ] = None,
    frames: Annotated[
        list[int] | None, typer.Option(help="Frames of the clip; may be repeated. Default: 1.")
    ] = None,
    phrases: Annotated[
        list[int] | None, typer.Option(help="Phrases asked; may be repeated. Default: 1.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32, bfloat16 or float16; may be repeated. Default: float32 and bfloat16."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    repeat: Annotated[
        int, typer.Option(help="Rounds after the one that warms up; the median counts.", min=1)
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object for all settings.")] = False,
) -> None:
    """Measure milliseconds, CPU-seconds and peak memory of a prediction, stage by stage, on a quiet machine.

    Every combination of sizes, frames, phrases and dtypes is measured in a process of its own.

    refseg bench scout --size 480x640 --phrases 1 --phrases 8
    """
    sizes = [_size(text) for text in size or ["480x640"]]
    counts = (frames or [1], phrases or [1])
    for name, numbers in zip(("frames", "phrases"), counts, strict=True):
        if min(numbers) < 1:
            raise InvalidInput(f"--{name} {min(numbers)} cannot be measured; give 1 or more")

    from dataclasses import asdict

    from refseg.evaluation.bench import Setting, measure, report

    settings = [
        Setting(checkpoint, height, width, num_frames, num_phrases, kind, device, repeat)
        for (height, width), num_frames, num_phrases, kind in product(
            sizes, *counts, dtype or ["float32", "bfloat16"]
        )
    ]
    with progress_bars() as bars:
        measured = [measure(setting) for setting in bars.track(settings, "settings", len(settings))]
    print(json.dumps({"measurements": [asdict(m) for m in measured]}) if as_json else report(measured))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})[x,X]([1-9]\d{0,4})", text)
    if found is None:
        raise InvalidInput(f"--size {text} is no size; give height and width such as 480x640")
    return int(found.group(1)), int(found.group(2))
