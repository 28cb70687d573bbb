"""`refseg convert`: published weights in, our own file out, and a report of every name."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app

if TYPE_CHECKING:
    from refseg.checkpoints.conversion import Conversion
    from refseg.models.base import ModelConfig

_TYPES = ("float32", "float16", "bfloat16")


@app.command()
def convert(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            help="Published weights: .pth, .pt, .pkl, .safetensors or Keras .h5; or a folder of diffusers."
        ),
    ],
    family: Annotated[str, typer.Option(help="The system they belong to; `refseg models` lists them.")],
    variant: Annotated[str, typer.Option(help="Its size.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write; default: FILE's name with .safetensors, here."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The text tower's tokenizer.json; default: the one in the Hugging Face cache."),
    ] = None,
    companion: Annotated[
        Path | None,
        typer.Option(
            help="Weights that FILE leaves out, such as a frozen text tower; default: the Hugging Face cache."
        ),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(help="A text, such as phrases one a line, whose words' vectors the file carries (VLT)."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="FILE holds this part alone, such as backbone; the result is a start for training."
        ),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(help="With --part: a file of ours that gives the rest, such as an earlier part."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE of the variant's configuration that the weights cannot tell, such as fusion_heads=[1,2,4,8].",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Stored as float32, float16 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, name by name.")] = False,
) -> None:
    """Bring published weights over: nothing in the file is run, and no name may be left on either side."""
    from refseg.errors import InvalidInput, UnknownName

    if dtype not in _TYPES:
        raise UnknownName("type to store", dtype, _TYPES)
    target = out or Path(f"{file.stem}.safetensors")
    if target.is_dir():
        raise InvalidInput(
            f"{target} is a folder; name the file to write, such as {target / file.stem}.safetensors"
        )
    if target.exists() and target.resolve() == file.resolve():
        raise InvalidInput(f"{target} is the file to read; name another one with --out")
    if target.exists() and not force:
        raise InvalidInput(
            f"{target} is there already; replace it with --force, or name another file with --out"
        )
    import torch

    from refseg.checkpoints import conversion

    done = conversion.convert(
        file,
        target,
        family=family,
        variant=variant,
        tokenizer=tokenizer,
        companion=companion,
        words=words,
        part=part,
        onto=onto,
        config=_config(family, variant, settings or []),
        dtype=getattr(torch, dtype),
    )
    print(json.dumps(_plain(done), ensure_ascii=False) if as_json else _describe(done))


def _config(family: str, variant: str, settings: list[str]) -> ModelConfig:
    """The configuration of a variant with some of its fields replaced."""
    from refseg.errors import InvalidInput
    from refseg.models import catalog
    from refseg.training.initial_weights import with_changes

    values: dict[str, Any] = {}
    for setting in settings:
        try:
            values |= tomllib.loads(setting)
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"{setting!r} is no setting ({error}); write KEY=VALUE as in TOML") from error
    return with_changes(catalog.variant(family, variant), values, "model")


def _plain(done: Conversion) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "bytes": done.path.stat().st_size,
        "family": done.header.family,
        "variant": done.header.variant,
        "origin": done.header.origin,
        "sha256": done.header.sha256,
        "extra": sorted(done.header.extra),
        "renamed": done.report.renamed,
        "merged": {name: list(parts) for name, parts in done.report.merged.items()},
        "dropped": done.report.dropped,
        "fresh": done.report.fresh,
    }


def _describe(done: Conversion) -> str:
    reasons = Counter(done.report.dropped.values())
    dropped = [f"  dropped {count}: {reason}" for reason, count in reasons.most_common()]
    merged = [f"  merged {' + '.join(parts)} -> {name}" for name, parts in done.report.merged.items()]
    carried, origin = ", ".join(sorted(done.header.extra)), done.header.origin
    return "\n".join(
        [
            f"{done.path}: {done.header.family} {done.header.variant}, {done.path.stat().st_size / 1e6:.1f} MB",
            f"  {done.report.summary()}",
            *_shorten(merged),
            *_shorten(dropped),
            *([f"  carries {carried}"] if carried else []),
            *([f"  only its {origin['part']}"] if "part" in origin else []),
            ", ".join(f"{key} {value}" for key, value in _origin(done).items()),
        ]
    )


def _origin(done: Conversion) -> dict[str, str]:
    origin = done.header.origin
    return {"  from": origin["file"]} | ({"sha256": origin["sha256"]} if "sha256" in origin else {})


def _shorten(lines: list[str], most: int = 8) -> list[str]:
    return (
        lines
        if len(lines) <= most
        else [*lines[:most], f"  ... and {len(lines) - most} more; --json lists all"]
    )
