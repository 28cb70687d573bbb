"""`refseg data convert`: a data set in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli.data.group import verbs

if TYPE_CHECKING:
    from refseg.data.convert import ConversionReport

_FORMS = "jsonl, refer, grefcoco, coco (per sentence) or vlt"


@verbs.command()
def convert(
    *,
    data: Annotated[
        str, typer.Argument(help="A published data set, its folder, or a .jsonl file in the open form.")
    ],
    out: Annotated[Path, typer.Argument(help="The .jsonl file, or the folder, to write.")],
    to: Annotated[str, typer.Option("--to", help=f"The form: {_FORMS}.")] = "jsonl",
    split: Annotated[str | None, typer.Option(help="The part to convert.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder that holds the data set, or that paths start from.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="With jsonl: the folder that the new paths start from; default: that of OUT."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="With REFER: which text is the phrase, sent or raw.")
    ] = None,
    extract: Annotated[
        Path | None,
        typer.Option(
            help="With jsonl: the folder to write pictures into that lie inside videos or parquet files."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of the same name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a data set in another form, and tell what that form cannot carry. Pictures stay where they are.

    refseg data convert refcoco refcoco-val.jsonl --split val --root /data --base /data
    """
    from refseg.data.convert import FORMS
    from refseg.errors import UnknownName

    if to not in FORMS:
        raise UnknownName("form of a data set", to, FORMS)
    done = _convert(
        data, out, to=to, split=split, root=root, base=base, text=text, extract=extract, force=force
    )
    if as_json:
        told = {"paths": [str(path) for path in done.paths], "records": done.records, "lost": done.lost}
        print(json.dumps(told, ensure_ascii=False))
        return
    print(
        "\n".join(
            [*map(str, done.paths), f"{done.records:,} records", *(f"note: {line}" for line in done.lost)]
        )
    )


def _convert(
    data: str,
    out: Path,
    *,
    to: str,
    split: str | None,
    root: Path | None,
    base: Path | None,
    text: str | None,
    extract: Path | None,
    force: bool,
) -> ConversionReport:
    from refseg.data import convert
    from refseg.data.catalog import find_phrase_file, open_dataset
    from refseg.data.dataset import ReadOptions
    from refseg.data.readers.image_set import ReferenceImages
    from refseg.errors import InvalidInput

    if to in ("refer", "grefcoco"):
        path = find_phrase_file(data, split)
        lines = convert.read_lines(path, split)
        return convert.write_refer(
            lines, out, root=root or path.parent, split_by="refseg", several=to == "grefcoco"
        )
    if Path(data).suffix == ".jsonl" or any(Path(data).glob("*.jsonl")):
        if to == "jsonl":
            raise InvalidInput(f"{data} is in the open form already")
        return _from_lines(Path(data), out, to=to, split=split, root=root)
    if data == "scenes":
        raise InvalidInput("`refseg data scenes --out FOLDER` writes scenes in the open form")
    opened = open_dataset(data, split=split, root=root, options=ReadOptions(text=text))  # type: ignore[arg-type]
    if to == "jsonl":
        if out.suffix != ".jsonl" or (out.exists() and not force):
            raise InvalidInput(
                f"{out} {'exists; give another name, or --force' if out.exists() else 'is no .jsonl file'}"
            )
        return convert.write_jsonl(opened, out, base or out.absolute().parent, extract=extract)  # type: ignore[arg-type]
    if not isinstance(opened, ReferenceImages):
        raise InvalidInput(
            f"{data} is a data set of videos, and the form {to!r} is one of pictures; write jsonl"
        )
    return (convert.write_coco if to == "coco" else convert.write_vlt)(opened, out)


def _from_lines(path: Path, out: Path, *, to: str, split: str | None, root: Path | None) -> ConversionReport:
    """A file in the open form in the COCO form or VLT's, by way of REFER's, one file a split."""
    from tempfile import TemporaryDirectory

    from refseg.data import convert
    from refseg.data.catalog import Place, find_phrase_file, open_table, own_refer
    from refseg.data.dataset import ReadOptions
    from refseg.data.readers.image_set import PictureFolders, ReferenceImages

    found = find_phrase_file(path, split)
    base = root or found.parent
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / found.stem
        lines = convert.read_lines(found, split)
        through = convert.write_refer(lines, folder, root=base, split_by="refseg", several=False)
        table = open_table(Place(own_refer(folder, through.paths[1]), folder))
        done = convert.ConversionReport(lost=through.lost)
        for part in table.splits:
            data = ReferenceImages(
                found.stem, table, PictureFolders([base]), split=part, options=ReadOptions()
            )
            written = (convert.write_coco if to == "coco" else convert.write_vlt)(data, out)
            done.paths += written.paths
            done.records += written.records
    return done
