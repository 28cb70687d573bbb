"""The model card of a checkpoint: what it is, how it was made, and every number that was measured of it.

Two files tell the same: `card.json` for programs, and a page in Markdown with the front matter that model hubs read. Every
evaluation of the same weights adds its numbers; those of other weights are dropped. What a person writes below `MARKER` stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.checkpoints import native, zoo
from refseg.errors import InvalidInput
from refseg.evaluation.card_page import card_page
from refseg.evaluation.table import result_table
from refseg.files import write_whole_text

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.evaluation.run import Result

FORM = "refseg model card 1"
PAGE_NAME, FACTS_NAME = "README.md", "card.json"
MARKER = "<!-- What you write below this line stays when the card is written again. -->"


def facts_path(page: Path) -> Path:
    """The file of plain facts that belongs to a page: card.json beside README.md, else the page's name with .json."""
    return page.with_name(FACTS_NAME) if page.name == PAGE_NAME else page.with_suffix(".json")


def model_facts(path: Path, header: native.Header, num_parameters: int) -> dict[str, Any]:
    """What the checkpoint file says of itself, as plain data."""
    frame = header.config.get("frame", {})
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "family": header.family,
        "variant": header.variant,
        "sha256": header.sha256,
        "version": header.version,
        "origin": dict(header.origin),
        "parameters": num_parameters,
        "frame": {key: frame[key] for key in ("fit", "size") if key in frame},
        "words": len(header.config["vocabulary"]) if header.config.get("vocabulary") else None,
    }


def first_facts(name: str, model: Mapping[str, Any], licence: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint of which nothing was measured yet."""
    return {
        "form": FORM,
        "name": name,
        "model": dict(model),
        "licence": dict(licence),
        "training": None,
        "results": [],
        "unmeasured": "no evaluation was asked for",
    }


def result_facts(result: Result, record: Mapping[str, Any], published: Sequence[Published]) -> dict[str, Any]:
    """One evaluation for the card: the record that `refseg evaluate --out` writes, with the table that it prints."""
    phrases = [row.phrase for done in result.done for row in done.rows if row.views and row.pixels()[2]]
    return {**record, "table": result_table(result, published), "example": phrases[0] if phrases else None}


def with_result(facts: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with one more evaluation, in place of an earlier one of the same examples.

    Raises:
        InvalidInput: if it is an evaluation of other weights.
    """
    if found["checkpoint"]["sha256"] != facts["model"]["sha256"]:
        raise InvalidInput(
            f"the card is of {facts['model']['file']} and the evaluation of other weights ({found['checkpoint']['name']}); "
            "write it to another file"
        )
    kept = [one for one in facts["results"] if _asked(one) != _asked(found)]
    return {**facts, "results": [*kept, dict(found)], "unmeasured": ""}


def _asked(found: Mapping[str, Any]) -> str:
    """What tells evaluations apart: the examples, and whether phrases were exchanged."""
    key = [found["source"], found["data"]["shuffled_phrases"], found["dtype"]]
    return json.dumps(key, sort_keys=True, default=str)


def add_to_card(
    page: Path, checkpoint: str, path: Path, num_parameters: int, found: Mapping[str, Any]
) -> None:
    """Adds an evaluation to the card at `page`; begins one where there is none of these weights.

    Args:
        checkpoint: the name or the path by which `path` was asked for.

    Raises:
        InvalidInput: if the file beside `page` is no card's, or cannot be written.
    """
    header = native.read_header(path)
    facts = read_facts(page, header.sha256)
    if facts is None:
        name = header.origin.get("recipe") or Path(checkpoint).stem
        facts = first_facts(name, model_facts(path, header, num_parameters), _licence_of(checkpoint))
    write_card(page, with_result(facts, found))


def _licence_of(checkpoint: str) -> dict[str, Any]:
    """What the checkpoint's own result card says of its licence; nothing is known of a file."""
    known = {card.name: card.licence for card in zoo.list_checkpoints()}.get(checkpoint)
    if known == "Apache-2.0":
        return {"id": "apache-2.0", "name": known, "told": "Apache License 2.0.", "rests_on": []}
    told = (
        f"What its source says of its licence: {known}." if known else "The file does not tell its licence."
    )
    return {"id": "other", "name": "see-the-card", "told": told, "rests_on": []}


def read_facts(page: Path, sha256: str) -> dict[str, Any] | None:
    """The facts beside a page, where they are of the weights with this hash.

    Raises:
        InvalidInput: if the file is no card's.
    """
    path = facts_path(page)
    if not path.is_file():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["form"] != FORM:
            raise ValueError("another form")
        return facts if facts["model"]["sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is no model card of this refseg; move it away, or name another file"
        ) from error


def write_card(page: Path, facts: Mapping[str, Any]) -> None:
    """Writes the facts and the page, each whole or not at all; what a person wrote below the marker stays.

    A page without the marker is a person's own: all of it is kept, below the marker.
    """
    text = f"{card_page(facts)}\n{MARKER}\n{_own_words(page)}"
    write_whole_text(
        facts_path(page), json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    write_whole_text(page, text)


def _own_words(page: Path) -> str:
    if not page.is_file():
        return ""
    text = page.read_text(encoding="utf-8")
    above, marker, below = text.partition(MARKER)
    return below.removeprefix("\n") if marker else f"\n{above}"
