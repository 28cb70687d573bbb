"""`refseg data get`: fetch a published data set, or tell what a person must fetch, from where, and where to put it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli.data.group import verbs

if TYPE_CHECKING:
    from refseg.data.download import Got


@verbs.command()
def get(
    *,
    name: Annotated[str, typer.Argument(help="A published data set, such as refcoco; `refseg data list`.")],
    root: Annotated[Path, typer.Option(help="The folder that data sets are kept in.")] = Path("data"),
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Fetch the pictures too; COCO's are 13 GB.")
    ] = False,
    archive: Annotated[
        list[Path] | None,
        typer.Option("--archive", help="An archive that you have fetched; may be repeated."),
    ] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep what was fetched.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is in the way.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring a published data set to its place.

    What a licence lets anybody copy is fetched, resumed where it stopped, checked and unpacked; of the rest the page, the file
    and the place are told. Exit code 0: everything is there. 1: something is left to fetch by hand.

    refseg data get refcoco --pictures
    """
    from refseg.data.download import get as bring
    from refseg.data.published import offer_of
    from refseg.download import shown

    got = bring(
        name,
        root,
        with_pictures=pictures,
        archives=archive or [],
        shown=shown,
        force=force,
        keeps_archives=keep_archives,
    )
    offer = offer_of(name)
    print(
        json.dumps({"name": offer.name, "parts": list(map(_record, got))})
        if as_json
        else "\n".join(map(str, got))
    )
    if not as_json and offer.pictures and not pictures:
        print("the pictures are an archive of their own: add --pictures, or put yours below the same folder")
    if any(part.state == "by hand" for part in got):
        raise typer.Exit(1)


def _record(got: Got) -> dict[str, Any]:
    told: dict[str, Any] = {"state": got.state, "place": str(got.place), "file": got.part.file}
    if got.state == "by hand":
        return told | {"page": got.part.page, "why": got.part.why}  # type: ignore[union-attr]
    return told | {"files": got.files, "sha256": got.sha256, "licence": got.part.licence}  # type: ignore[union-attr]
