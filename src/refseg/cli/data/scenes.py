"""`refseg data scenes`: images and clips of the drawn world as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refseg.cli.data.check import count_steps
from refseg.cli.data.group import verbs
from refseg.cli.progress import progress_bars
from refseg.cli.scenes_options import WORLD_HELP, world_fields


@verbs.command()
def scenes(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; it must not exist.")],
    split: Annotated[str, typer.Option(help="train, val or new.")] = "val",
    count: Annotated[int, typer.Option(help="How many scenes.", min=1)] = 100,
    size: Annotated[int, typer.Option(help="Side of the picture in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames of a clip; 1 is an image.")] = 1,
    phrases: Annotated[int, typer.Option(help="Phrases of every scene.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Another seed draws other scenes.")] = 0,
    sprites: Annotated[
        str, typer.Option(help="auto (the system's emoji font), none (shapes only), or a sprite file.")
    ] = "auto",
    world: Annotated[list[str] | None, typer.Option(help=WORLD_HELP)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of scenes.")] = False,
) -> None:
    """Draw scenes with exact masks into a folder, in the open form.

    refseg data scenes --split val --count 100 --out my-scenes
    """
    from refseg.data.scenes.dataset import ScenesSpec
    from refseg.data.scenes.export import write_scenes

    values: dict[str, Any] = {
        "size": size,
        "frames": frames,
        "phrases": phrases,
        "split": split,
        "count": count,
    }
    values |= {"seed": seed, "sprites": sprites} | world_fields(world or ())
    spec = ScenesSpec.of(values)
    with progress_bars() as bars:
        path = write_scenes(
            out, spec=spec, count=count, force=force, on_scene=count_steps(bars, "scenes", count)
        )
    print(path)
