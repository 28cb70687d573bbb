"""A model's configuration as plain data and back: frozen dataclasses to what JSON holds, strictly in both directions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from refseg.errors import CheckpointMismatch
from refseg.models.base import ModelConfig

# Fields that came when files had already been written, and the value that says what those files compute.
CAME_LATER: Mapping[str, Any] = {"frame.rounding": "down"}


def to_plain(config: ModelConfig) -> dict[str, Any]:
    """`config` as dicts, lists, numbers, texts, booleans and None."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_plain(kind: type[ModelConfig], plain: Mapping[str, Any], *, version: str) -> ModelConfig:
    """The configuration of type `kind` that `to_plain` wrote; every field is given, or stands in `CAME_LATER`.

    Raises:
        CheckpointMismatch: if a field is unknown, missing or of another type; the message names the refseg `version`
            that wrote it.
    """
    plain = _brought_up_to_date(plain)
    try:
        config = TypeAdapter(kind).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CheckpointMismatch(_summary(version, f"field {where}: {first['msg']}")) from error
    differences = list(_different(plain, to_plain(config)))
    if differences:
        raise CheckpointMismatch(_summary(version, ", ".join(differences)))
    return config


def _brought_up_to_date(plain: Mapping[str, Any]) -> dict[str, Any]:
    """`plain` with the fields that its writer could not know."""
    current: dict[str, Any] = json.loads(json.dumps(plain))
    for path, value in CAME_LATER.items():
        *sections, name = path.split(".")
        place: Any = current
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(name, value)
    return current


def _summary(version: str, what: str) -> str:
    return (
        f"the configuration in the file, written by refseg {version}, does not fit this version: {what}; "
        "use the refseg that wrote the file, or convert the original weights again"
    )


def _different(given: Any, restored: Any, where: str = "") -> Iterator[str]:
    """The fields in which two plain values differ, told in words."""
    if isinstance(given, dict) and isinstance(restored, dict):
        for name in sorted({*given, *restored}):
            field = f"{where}.{name}" if where else name
            if name not in restored:
                yield f"unknown field {field}"
            elif name not in given:
                yield f"missing field {field}"
            else:
                yield from _different(given[name], restored[name], field)
    elif isinstance(given, list) and isinstance(restored, list) and len(given) == len(restored):
        for i, (one, other) in enumerate(zip(given, restored, strict=True)):
            yield from _different(one, other, f"{where}[{i}]")
    elif given != restored:
        yield f"field {where} is {given!r}, which would become {restored!r}"
