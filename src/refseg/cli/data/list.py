"""`refseg data list`: the published data sets that can be read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli.data.group import verbs

if TYPE_CHECKING:
    from refseg.data.published import Counts, Published


@verbs.command("list")
def list_data(
    *,
    name: Annotated[
        str | None, typer.Argument(help="One data set, with everything that is known of it.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where to look which of them are there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the published data sets that refseg reads: splits, counts, licence, where to get them, and which are there."""
    from refseg.data.published import PUBLISHED, published

    chosen = [published(name)] if name is not None else list(PUBLISHED.values())
    if as_json:
        print(json.dumps({"data_sets": [_record(facts, root) for facts in chosen]}, ensure_ascii=False))
    elif name is not None:
        print(_page(chosen[0], root))
    else:
        head = f"{'name':18}{'data set':30}{'phrases':>9}  {'clips':>15}  {'download':20}splits"
        print("\n".join([head, *(_row(facts, root) for facts in chosen)]))
        print("\n`refseg data list NAME` tells the licence, counts by split, layout and sources of one.")


def _find(facts: Published, root: Path | None) -> Path | None:
    from refseg.data.catalog import find
    from refseg.errors import InvalidInput

    try:
        return find(facts, root).folder
    except InvalidInput:
        return None


def _record(facts: Published, root: Path | None) -> dict[str, Any]:
    found = _find(facts, root)
    return asdict(facts) | {"found": str(found) if found else None}


def _row(facts: Published, root: Path | None) -> str:
    found = _find(facts, root)
    every = _all(facts)
    clips = f"{every.clips:,} {_clips(facts)}" if every.clips else f"? {_clips(facts)}"
    phrases = f"{every.phrases:,}" if every.phrases else "?"
    size = facts.size if facts.size[:3] != "not" else "?"
    told = f"{facts.name:18}{facts.title:30}{phrases:>9}  {clips:>15}  {size:20}{' '.join(facts.splits)}"
    return told + (f"  (here: {found})" if found else "")


def _all(facts: Published) -> Counts:
    """The whole data set: as published, or the sum over its splits where each is known."""
    from refseg.data.published import Counts

    def summed(field: str) -> int | None:
        parts = [getattr(counts, field) for counts in facts.splits.values()]
        return None if None in parts else sum(parts)

    # Splits by object share pictures, so that only phrases add up.
    return Counts(facts.total.clips, facts.total.objects, facts.total.phrases or summed("phrases"))


def _clips(facts: Published) -> str:
    return "videos" if facts.task == "video" else "pictures"


def _page(facts: Published, root: Path | None) -> str:
    found = _find(facts, root)
    lines = [f"{facts.title} ({facts.name})", f"  {facts.task}; licence: {facts.licence}"]
    lines.append(f"  download: {facts.size}")
    lines += [
        f"  {split}: {_counts(counts, facts)}"
        for split, counts in [*facts.splits.items(), ("all", facts.total)]
    ]
    lines += ["  sources:", *(f"    {source}" for source in facts.sources)]
    lines += ["  layout:", *(f"    {place}" for place in facts.layout)]
    lines += [f"  note: {remark}" for remark in facts.remarks]
    lines.append(f"  found in {found}" if found else "  not found here; --root names the folder to look in")
    return "\n".join(lines)


def _counts(counts: Counts, facts: Published) -> str:
    named = ((counts.clips, _clips(facts)), (counts.objects, "objects"), (counts.phrases, "phrases"))
    told = [f"{count:,} {what}" for count, what in named if count is not None]
    return (", ".join(told) or "no counts published") + (
        " (quoted without certainty)" if counts.is_rough else ""
    )
