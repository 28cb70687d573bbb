"""`refseg vectors`: a published file of word vectors, read once into a table that prediction maps into memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refseg.cli import app


@app.command()
def vectors(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            help="GloVe or word2vec text (.txt, .vec, .gz, .zip), .npz, or a spaCy package's folder."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="What the table is called; default: the file's name, such as glove.840B.300d."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a table of the same name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Read word vectors once (VLT needs them); checkpoints that carry their own words' vectors do without.

    refseg vectors glove.840B.300d.zip
    """
    from refseg.encoders.word_vectors import WordTable, table_folder, table_name, write_table
    from refseg.errors import InvalidInput

    called = name or table_name(file)
    if table_folder(called).exists() and not force:
        raise InvalidInput(
            f"there is a table {called!r} already, in {table_folder(called)}; replace it with --force, or give another --name"
        )
    folder = write_table(file, name=called)
    table = WordTable.open(folder)
    told = {"name": called, "words": len(table), "dim": table.dim, "folder": str(folder)}
    print(
        json.dumps(told, ensure_ascii=False)
        if as_json
        else f"{called}: {len(table)} words, {table.dim} numbers each, in {folder}"
    )
