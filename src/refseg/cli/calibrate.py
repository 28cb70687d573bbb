"""`refseg calibrate`: a checkpoint whose scores mean what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refseg.cli import app


@app.command()
def calibrate(
    *,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's name or file.")],
    data: Annotated[
        str, typer.Argument(help="What the score is fitted on: scenes, a data set or a phrase file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write.")],
    split: Annotated[str | None, typer.Option(help="The part to fit on; of scenes, train.")] = None,
    count: Annotated[int, typer.Option(help="Pictures or clips to fit on.", min=1)] = 1000,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Scenes: frames of a clip; may be repeated, to fit on several kinds."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Scenes: one that no training run has.")] = 1000,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Also choose the score from which on to answer: this share of true phrases keeps its answer."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="In which weights are stored: float32, bfloat16, float16.")
    ] = "float16",
    force: Annotated[bool, typer.Option("--force", help="Replace a file of the same name.")] = False,
) -> None:
    """Fit a temperature and a bias of the score, so that of phrases answered with 0.8 eight in ten have a target.

    refseg calibrate runs/scout-clips scenes --out scout.safetensors
    """
    from refseg.checkpoints import native, zoo
    from refseg.data.catalog import open_dataset
    from refseg.device import find_device, find_dtype
    from refseg.errors import InvalidInput
    from refseg.files import check_writable
    from refseg.training.calibration import calibrate as fit

    if out.exists() and not force:
        raise InvalidInput(f"{out} exists; give another name, or --force to replace it")
    check_writable(out.parent)
    stored, found = find_dtype(dtype), str(find_device(device))
    part = split or ("train" if data == "scenes" else None)
    kinds = [{"frames": each, "seed": seed} for each in frames or [1]] if data == "scenes" else [{}]
    examples = [open_dataset(data, split=part, count=count, root=root, scenes=kind) for kind in kinds]
    model, header, _ = zoo.load(checkpoint, device=found)
    fitted = fit(model, examples, keep=keep, device=found)
    origin = {**header.origin, "calibrated": f"{data} {part or ''} {count} seed {seed}: {fitted.scaling}"}
    native.save(out, model, family=header.family, variant=header.variant, origin=origin, dtype=stored)
    print(f"{out}: {fitted}")
