"""`refseg evaluate`: a checkpoint on a data set, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from refseg.cli import app


@app.command()
def evaluate(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint's name (`refseg models` lists them) or file.")
    ],
    data: Annotated[
        str, typer.Argument(help="scenes, a .jsonl file in the open form, or the folder that holds it.")
    ],
    split: Annotated[
        str | None, typer.Option(help="The part to evaluate; default: val of scenes, every line of a file.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="At most so many pictures or clips; default: all (1,000 scenes).", min=1),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder that a file's paths start from; default: its own.")
    ] = None,
    shuffle_phrases: Annotated[
        bool,
        typer.Option("--shuffle-phrases", help="The control: ask every picture the phrases of another one."),
    ] = False,
    size: Annotated[int | None, typer.Option(help="Scenes: side of the picture in pixels (128).")] = None,
    frames: Annotated[int | None, typer.Option(help="Scenes: frames of a clip (1, an image).")] = None,
    phrases: Annotated[int | None, typer.Option(help="Scenes: phrases of every scene (3).", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Scenes: another seed draws other scenes (0).")] = None,
    sprites: Annotated[
        str | None, typer.Option(help="Scenes: auto, none (shapes only), or a sprite file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A JSON file for the result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    as_card: Annotated[
        bool, typer.Option("--card", help="Print [[checkpoint.measured]] tables for a result card.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of the same name.")] = False,
) -> None:
    """Measure oIoU, mIoU and P@0.5 to P@0.9 of a checkpoint, per register of phrases, and its speed.

    refseg evaluate scout scenes --count 200
    """
    from refseg.data.catalog import describe, open_dataset
    from refseg.errors import InvalidInput
    from refseg.evaluation.card import card_tables
    from refseg.evaluation.machine import this_machine
    from refseg.evaluation.run import evaluate as run_evaluation
    from refseg.evaluation.table import result_record, result_table
    from refseg.files import check_writable, write_whole_text
    from refseg.predictor import load

    if out is not None:
        if out.exists() and not force:
            raise InvalidInput(f"{out} exists; give another name, or --force to replace it")
        check_writable(out.parent)
    scenes = {"size": size, "frames": frames, "phrases": phrases, "seed": seed, "sprites": sprites}
    given = {name: value for name, value in scenes.items() if value is not None}
    dataset = open_dataset(data, split=split, count=count, root=root, scenes=given)
    predictor = load(checkpoint, device=device, dtype=dtype)
    weights = _checkpoint_facts(checkpoint)
    result = run_evaluation(predictor, dataset, shuffle_phrases=shuffle_phrases, shows_progress=True)
    facts = {"checkpoint": weights, "source": describe(dataset), "dtype": dtype}
    record = result_record(result, this_machine(predictor.device), **facts)
    if out is not None:
        write_whole_text(out, json.dumps(record, indent=2) + "\n")
    if as_json or as_card:
        print(json.dumps(record) if as_json else card_tables(record))
        return
    print(result_table(result))


def _checkpoint_facts(name: str) -> dict[str, Any]:
    """What identifies the weights."""
    from refseg.checkpoints import native, zoo

    header = native.read_header(zoo.resolve(name))
    label = Path(name).name  # of a file its name alone: folders are nobody else's business
    return {"name": label, "family": header.family, "variant": header.variant, "sha256": header.sha256}
