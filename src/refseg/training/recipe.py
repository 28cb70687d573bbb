"""Recipes: one flat TOML file becomes a run, read strictly; every key that is not known is an error.

Messages speak of a recipe in its own words: the key, what was given, what was expected. Lengths may be given in steps (500)
or in epochs ("12 epochs"), and become steps when the data is known.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from refseg.data.augment.steps import STEPS
from refseg.data.frame_sampling import RULES
from refseg.errors import InvalidInput, UnknownName, nearest
from refseg.training.schema import SECTIONS, RuleConfig, RunConfig, SetConfig


def epoch_length(count: int | None, run: RunConfig, world_size: int) -> int | None:
    """Positions of one epoch over `count` examples, by `run.epoch_ends`; None for a set without end.

    Raises:
        InvalidInput: if the set is smaller than one step and what is left of an epoch is dropped.
    """
    each = examples_per_step(run, world_size)
    if count is None or run.run.epoch_ends == "run_on":
        return count
    if run.run.epoch_ends == "fill":
        return math.ceil(count / each) * each
    if count < each:
        raise InvalidInput(
            f"the training data holds {count} examples, fewer than the {each} of one step, and run.epoch_ends = "
            '"drop" leaves none; lower run.batch_size, or set run.epoch_ends = "fill"'
        )
    return count // each * each


def examples_per_step(run: RunConfig, world_size: int) -> int:
    """Examples whose gradients make one step, over all processes."""
    return run.run.batch_size * run.optimizer.accumulate * world_size


def in_steps(run: RunConfig, count: int | None, world_size: int) -> RunConfig:
    """The run with every length in steps, for a training set of `count` examples; None is a set without end.

    Raises:
        InvalidInput: if a length is given in epochs of a set without end, or the warm-up outlasts the run.
    """
    positions = epoch_length(count, run, world_size)
    epoch = None if positions is None else Fraction(positions, examples_per_step(run, world_size))

    def steps(length: int | float | str, key: str) -> Any:
        if not isinstance(length, str):
            return length
        if epoch is None:
            raise InvalidInput(f"{key} is {length!r}, and scenes have no epochs; give a number of steps")
        return max(1, math.floor(Fraction(length.split()[0]) * epoch))

    schedule, section = run.schedule, run.run
    plain = section.model_copy(
        update={
            key: steps(getattr(section, key), f"run.{key}")
            for key in ("steps", "evaluate_every", "save_every")
        }
    )
    warm = steps(schedule.warmup_steps, "schedule.warmup_steps")
    if warm > plain.steps:
        raise InvalidInput(f"schedule.warmup_steps {warm} is longer than run.steps {plain.steps}")
    drops = tuple(steps(drop, "schedule.drops") for drop in schedule.drops)
    moved = schedule.model_copy(update={"warmup_steps": warm, "drops": drops})
    return run.model_copy(update={"run": plain, "schedule": moved})


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


_TAGS = ("union_tag_invalid", "union_tag_not_found")


_PARTS: dict[str, type] = {_class.step: _class for _class in STEPS} | {
    _class.rule: _class for _class in RULES
}


_LISTED: dict[str, type] = {"sets": SetConfig, "rules": RuleConfig}


def describe_error(error: Any, sections: dict[str, type]) -> str:
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
        return f"{_join_keys(place)} is missing"
    said = error["msg"].removeprefix("Value error, ")
    if not place:
        return said
    is_section = isinstance(error["input"], dict) and len(place) == 1 and error["type"] == "value_error"
    shown = "" if is_section else f", not {error['input']!r}"
    return f"{_join_keys(place)}: {said}{shown}"


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
    return (
        f"unknown key {key!r} in {f'section [{_join_keys(where)}]' if where else 'the top section'}; {hint}"
    )


def _tag(place: Sequence[str | int], error: Any) -> str:
    tag = "rule" if "sample" in place else "step"
    known = [name for name, part in _PARTS.items() if hasattr(part, tag)]
    given = error["input"].get(tag) if isinstance(error["input"], dict) else None
    if given is None:
        return f"{_join_keys(place)} is a table that names its {tag}, one of {', '.join(known)}"
    near = nearest(str(given), known)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    return f"{_join_keys(place)}: there is no {tag} named {given!r}; {hint}"


def _class_at(place: Sequence[str | int], sections: dict[str, type]) -> type:
    found = sections[""]
    for name in place:
        found = sections.get(str(name)) or _LISTED.get(str(name)) or _PARTS.get(str(name)) or found
    return found


def _keys(section: type) -> list[str]:
    if dataclasses.is_dataclass(section):
        return [field.name for field in dataclasses.fields(section)]
    return list(section.model_fields)  # type: ignore[attr-defined]


def _join_keys(place: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


# Keys that may differ when a run is taken up again: they change what is seen of the run, not what it computes.
FREE_KEYS = frozenset(
    {"name", "data.workers", "run.log_every", "run.save_every", "run.evaluate_every", "run.evaluate_examples"}
    | {"run.sharding", "run.compile"}  # of rounding alone
    | {"run.final_protocols", "run.final_examples"}
    | {"data.root", "data.evaluate_name", "data.evaluate_split", "data.evaluate_root"}
    | {"run.keep_best", "run.patience", "run.min_gain", "run.tensorboard"}
)


def read_recipe(path: Path, overrides: Sequence[str] = (), *, name: str | None = None) -> RunConfig:
    """The run that the TOML file at `path` describes, with dotted overrides such as `run.steps=100` laid over it.

    A recipe that does not say its name is called `name`, or like its file.

    Raises:
        InvalidInput: if the file is absent or no TOML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the recipe {path} is not TOML: {error}") from error
    for override in overrides:
        _lay_over(values, override)
    values.setdefault("name", name or path.stem)
    return run_from_values(values, source=str(path))


def run_from_values(values: Mapping[str, Any], *, source: str) -> RunConfig:
    """The run that plain values describe; `source` names them in messages.

    Raises:
        InvalidInput: if a key is unknown, missing or of the wrong kind.
    """
    if values.get("init") == "":
        values = {
            key: value for key, value in values.items() if key != "init"
        }  # an override that means from scratch
    data = values.get("data")
    if isinstance(data, dict) and data.get("sets"):
        values = {**values, "data": {"name": "", **data}}  # several sets stand in place of the name
    try:
        return RunConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise InvalidInput(
            f"recipe {source}: {'; '.join(describe_error(each, SECTIONS) for each in error.errors())}"
        ) from error


def packaged_recipes() -> dict[str, Path]:
    """Names such as `scout/scenes` of the recipes that come with refseg, and their files."""
    folder = Path(str(files("refseg"))) / "recipes"
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.glob("*/*.toml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by the name of a packaged one.

    Raises:
        UnknownName: if it is neither.
    """
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    if Path(name).is_file():
        return Path(name)
    if name.endswith(".toml"):
        raise InvalidInput(
            f"the recipe file {name} does not exist; `refseg train --list` names the packaged recipes"
        )
    raise UnknownName("recipe", name, packaged)


def to_toml(run: RunConfig) -> str:
    """The run as TOML, every key in full; reading it gives the same run."""
    values = run.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, section in values.items():
        if isinstance(section, dict) and section:
            lines += ["", f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in section.items())]
    return "\n".join(lines) + "\n"


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """The keys that two runs set differently and that change what is computed."""
    first, second = (_flat(run.model_dump(mode="json")) for run in (one, other))
    keys = sorted({*first, *second} - FREE_KEYS)
    return [key for key in keys if first.get(key) != second.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _lay_over(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InvalidInput(f"{override!r} is no override; write section.key=value, such as run.steps=100")
    place: Any = values
    for part in parts[:-1]:
        place = _entry(place, part, override) if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise InvalidInput(f"override {override!r}: {part!r} is a value, not a section")
    if isinstance(place, list):
        _entry(place, parts[-1], override)
        place[int(parts[-1])] = _value(text, override)
    else:
        place[parts[-1]] = _value(text, override)


def _value(text: str, override: str) -> Any:
    """What an override sets: TOML, or a bare word, which is a text, so that the shell's quotes need no second pair."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.strip()[:1] in ("[", "{"):
            raise InvalidInput(
                f"override {override!r} is not TOML ({error}); texts inside brackets stand in quotes, as in "
                "optimizer.freeze='[\"^backbone\"]'"
            ) from error
        return text.strip()


def _entry(entries: list[Any], number: str, override: str) -> Any:
    if not number.isdecimal() or int(number) >= len(entries):
        raise InvalidInput(
            f"override {override!r}: {number!r} is no entry of the list, which has {len(entries)}, numbered from 0"
        )
    return entries[int(number)]
