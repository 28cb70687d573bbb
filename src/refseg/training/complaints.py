"""What is wrong with a recipe, said in its own words: the key, what was given, what was expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from refseg.data.steps import STEPS
from refseg.data.windows import RULES
from refseg.errors import nearest
from refseg.training.sections import RuleConfig, SetConfig

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_TAGS = ("union_tag_invalid", "union_tag_not_found")
_PARTS: dict[str, type] = {_class.step: _class for _class in STEPS} | {
    _class.rule: _class for _class in RULES
}
_LISTED: dict[str, type] = {"sets": SetConfig, "rules": RuleConfig}


def told(error: Any, sections: dict[str, type]) -> str:
    """One mistake that pydantic found, as a sentence.

    Arguments:
        sections: the classes of the recipe's sections, by name; "" is the top.
    """
    place = list(error["loc"])
    if error["type"] in _UNKNOWN:
        return _unknown(place, sections)
    if error["type"] in _TAGS:
        return _tag(place, error)
    if error["type"] == "missing":
        return f"{_joined(place)} is missing"
    said = error["msg"].removeprefix("Value error, ")
    if not place:
        return said
    is_section = isinstance(error["input"], dict) and len(place) == 1 and error["type"] == "value_error"
    shown = "" if is_section else f", not {error['input']!r}"
    return f"{_joined(place)}: {said}{shown}"


def _unknown(place: Sequence[str | int], sections: dict[str, type]) -> str:
    key, where = str(place[-1]), place[:-1]
    known = _keys(_class_at(where, sections))
    elsewhere = [
        f"{name}.{other}"
        for name, section in sections.items()
        if name
        for other in _keys(section)
        if other == key
    ]
    near = (elsewhere if not where else []) or nearest(key, known)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    return f"unknown key {key!r} in {f'section [{_joined(where)}]' if where else 'the top section'}; {hint}"


def _tag(place: Sequence[str | int], error: Any) -> str:
    tag = "rule" if "sample" in place else "step"
    known = [name for name, part in _PARTS.items() if hasattr(part, tag)]
    given = error["input"].get(tag) if isinstance(error["input"], dict) else None
    if given is None:
        return f"{_joined(place)} is a table that names its {tag}, one of {', '.join(known)}"
    near = nearest(str(given), known)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    return f"{_joined(place)}: there is no {tag} named {given!r}; {hint}"


def _class_at(place: Sequence[str | int], sections: dict[str, type]) -> type:
    found = sections[""]
    for name in place:
        found = sections.get(str(name)) or _LISTED.get(str(name)) or _PARTS.get(str(name)) or found
    return found


def _keys(section: type) -> list[str]:
    if dataclasses.is_dataclass(section):
        return [field.name for field in dataclasses.fields(section)]
    return list(section.model_fields)  # type: ignore[attr-defined]


def _joined(place: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
