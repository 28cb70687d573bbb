"""`refseg merge`: adapters and the checkpoint they were trained on become one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refseg.cli import app

_TYPES = ("float32", "float16", "bfloat16")


@app.command()
def merge(
    *,
    adapters: Annotated[Path, typer.Argument(help="The adapters.safetensors of a run.")],
    base: Annotated[
        str | None,
        typer.Option(help="The checkpoint they were trained on; default: where the run found it (its init)."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write.")] = Path(
        "merged.safetensors"
    ),
    dtype: Annotated[str, typer.Option(help="Stored as float32, float16 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lay adapters over their checkpoint: one file that predict, evaluate and serve read like any other."""
    from refseg.errors import InvalidInput, UnknownName

    if dtype not in _TYPES:
        raise UnknownName("type to store", dtype, _TYPES)
    if out.is_dir():
        raise InvalidInput(f"{out} is a folder; name the file to write, such as {out / 'merged.safetensors'}")
    if out.exists() and not force:
        raise InvalidInput(
            f"{out} is there already; replace it with --force, or name another file with --out"
        )
    if out.exists() and out.resolve() == adapters.resolve():
        raise InvalidInput(f"{out} is the file to read; name another one with --out")
    import torch

    from refseg.training import lora_file

    header = lora_file.merge(adapters, out, base=base, dtype=getattr(torch, dtype))
    if as_json:
        told = {"path": str(out), "family": header.family, "variant": header.variant, "sha256": header.sha256}
        print(json.dumps(told))
    else:
        print(out)
