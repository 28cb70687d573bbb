"""`refseg data overlap`: which pictures of a COCO or Visual Genome file results are measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refseg.cli.data.group import verbs


@verbs.command()
def overlap(
    *,
    file: Annotated[
        Path, typer.Argument(help="instances_*.json of COCO, or image_data.json of Visual Genome.")
    ],
    of: Annotated[
        list[str], typer.Option("--of", help="A part that results are measured on: refcoco:val+testA+testB.")
    ],
    root: Annotated[Path | None, typer.Option(help="The folder that holds the data sets of --of.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A JSON file for the numbers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell which pictures to leave out of pre-training, because results will be measured on them.

    refseg data overlap instances_train2017.json --of refcoco:val+testA+testB --of refcocog-umd:val+test
    """
    from refseg.data.leakage import evaluation_images
    from refseg.data.leakage import overlap as find_overlap
    from refseg.files import write_whole_text

    held = evaluation_images(of, root)
    total, numbers = find_overlap(file, held)
    if out is not None:
        write_whole_text(out, json.dumps(numbers) + "\n")
    parts = {one.part: len(one.numbers) for one in held}
    if as_json:
        print(json.dumps({"pictures": total, "held_out": parts, "shared": numbers}))
        return
    measured = ", ".join(f"{part} ({count})" for part, count in parts.items())
    print(f"{len(numbers)} of {total} pictures of {file.name} are among those of {measured}")
