"""`refseg models`: what families and checkpoints there are; `get` fetches one, `show` tells all about one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app

if TYPE_CHECKING:
    from rich.table import Table

    from refseg.checkpoints.cards import Card, Result

models = typer.Typer(help="List families and checkpoints; fetch one; show one.")
app.add_typer(models, name="models")

_SHOWN = 4  # results of a card in the list

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models.callback(invoke_without_command=True)
def list_all(
    context: typer.Context,
    *,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/models.md.")] = False,
) -> None:
    """List families, their variants, and the checkpoints with their published results."""
    if context.invoked_subcommand is not None:
        return
    from refseg.checkpoints import zoo
    from refseg.models import catalog

    families = [catalog.family(name) for name in catalog.FAMILIES]
    cards = zoo.list_checkpoints()
    if as_json:
        plain = [{"name": f.name, "title": f.title, "variants": list(f.variants)} for f in families]
        _print_json({"families": plain, "checkpoints": [_plain(card) for card in cards]})
        return
    if as_markdown:
        print(_markdown(cards))
        return
    _print(_family_table([(f.name, f.title, ", ".join(f.variants)) for f in families]))
    _print(_card_table(cards))
    print("Fetch one with: refseg models get NAME. All about one: refseg models show NAME.")


@models.command()
def get(
    *,
    name: Annotated[str, typer.Argument(help="A checkpoint's name.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch it even if it is here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint, check it, and bring it over; goes on where an interrupted download stopped."""
    from refseg.checkpoints import native, zoo

    path = zoo.get(name, force=force)
    origin = native.read_header(path).origin
    if as_json:
        _print_json({"name": name, "path": str(path), "bytes": path.stat().st_size, "origin": origin})
        return
    print(path)
    if zoo.find(name).source.sha256 is None and "sha256" in origin:
        print(f"The authors name no checksum; the file that came has sha256 {origin['sha256']}")


@models.command()
def show(
    *,
    name: Annotated[str, typer.Argument(help="A checkpoint's name, or a file.")],
    as_json: AsJson = False,
) -> None:
    """Tell all that is known of a checkpoint: its card, or what a file says of itself, weights verified."""
    from refseg.checkpoints import native, zoo

    if Path(name).is_file():
        header = native.verify(Path(name))
        told = {
            "path": name,
            "family": header.family,
            "variant": header.variant,
            "origin": header.origin,
            "version": header.version,
            "sha256": header.sha256,
            "extra": sorted(header.extra),
            "config": header.config,
        }
    else:
        told = _plain(zoo.find(name))
    if as_json:
        _print_json(told)
        return
    for key, value in told.items():
        _show(key, value)


def _plain(card: Card) -> dict[str, Any]:
    from refseg.checkpoints import zoo

    plain: dict[str, Any] = card.model_dump(mode="json", exclude_none=True)
    plain["source"]["address"] = card.source.address
    return {**plain, "is_here": zoo.is_here(card)}


def _show(key: str, value: Any, indent: str = "") -> None:
    if isinstance(value, dict):
        print(f"{indent}{key}:")
        for name, item in value.items():
            _show(name, item, indent + "  ")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        print(f"{indent}{key}:")
        for item in value:
            print(f"{indent}  - " + ", ".join(f"{name} {one}" for name, one in item.items()))
    elif value not in ("", []):
        print(f"{indent}{key}: {value}")


def _family_table(rows: list[tuple[str, str, str]]) -> Table:
    from rich.table import Table

    table = Table(title="families", title_justify="left")
    for column in ("family", "what it is", "variants"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _card_table(cards: list[Card]) -> Table:
    from rich.table import Table

    from refseg.checkpoints import zoo

    table = Table(title="checkpoints", title_justify="left")
    table.add_column("checkpoint", no_wrap=True)
    for column in ("variant", "trained on", "published results", "our results", "licence", "here"):
        table.add_column(column, overflow="fold")
    for card in cards:
        results = (_few(kind) for kind in (card.published, card.measured))
        here = "yes" if zoo.is_here(card) else "no"
        table.add_row(card.name, card.variant, card.trained_on, *results, card.licence, here)
    return table


def _markdown(cards: list[Card]) -> str:
    """The page of all checkpoints, with every number of their cards."""
    lines = [
        "# Checkpoints",
        "",
        "Made by `refseg models --markdown` from the cards of each family (`checkpoints.toml`). Published numbers are the",
        "authors'; measured ones are ours, written down from `refseg evaluate`.",
    ]
    for card in cards:
        about = (
            f"`{card.family}` `{card.variant}`",
            f"trained on {card.trained_on}",
            f"licence: {card.licence}",
        )
        lines += ["", f"## {card.name}", "", "; ".join(about) + f"; from {card.source.address}"]
        lines += ["", card.note[:1].upper() + card.note[1:] + "."] if card.note else []
        results = (*card.measured, *card.published)
        if results:
            lines += ["", "| data | metric | value | whose | protocol |", "|---|---|---|---|---|"]
            lines += [_markdown_row(result) for result in results]
    return "\n".join(lines)


def _markdown_row(result: Result) -> str:
    from refseg.checkpoints.cards import Measured, Published

    whose = "published" if isinstance(result, Published) else "measured"
    if isinstance(result, Measured):
        whose = f"refseg {result.version}, {result.date}, {result.machine}"
    cells = (f"{result.dataset} {result.split}", result.metric, f"{result.value:g}", whose, result.protocol)
    return "| " + " | ".join(cells) + " |"


def _few(results: Sequence[Result]) -> str:
    """The first of many results; `refseg models show` tells all."""
    told = [_result(result) for result in results[:_SHOWN]]
    rest = len(results) - len(told)
    return "\n".join([*told, *([f"and {rest} more"] if rest else [])])


def _result(result: Result) -> str:
    return f"{result.dataset} {result.split} {result.metric} {result.value:g}"


def _print(table: Table) -> None:
    """Prints a table; where stdout is no terminal, at a width that does not depend on one."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
