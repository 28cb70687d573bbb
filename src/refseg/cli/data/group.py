"""The group of verbs `refseg data ...`."""

from __future__ import annotations

import typer

from refseg.cli import app

verbs = typer.Typer(help="Draw scenes, check a phrase file, look at a data set.", no_args_is_help=True)
app.add_typer(verbs, name="data")
