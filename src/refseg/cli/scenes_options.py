"""Fields of the scenes world on the command line: `--world KEY=VALUE`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from refseg.errors import InvalidInput

WORLD_HELP = (
    "Scenes: a further field, KEY=VALUE, such as twins=1.0, motions=['left','right'] or registers={mot=1.0}; "
    "may be repeated."
)


def world_fields(given: Sequence[str]) -> dict[str, Any]:
    """Fields by name; values are TOML, a bare word is a text.

    Raises:
        InvalidInput: if one is not KEY=VALUE, or a key comes twice.
    """
    fields: dict[str, Any] = {}
    for one in given:
        key, equals, text = (part.strip() for part in one.partition("="))
        if not equals or not key:
            raise InvalidInput(f"--world {one!r} is no field; write KEY=VALUE, such as twins=1.0")
        if key in fields:
            raise InvalidInput(f"--world {key} was given twice; give it once")
        try:
            fields[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            fields[key] = text
    return fields
