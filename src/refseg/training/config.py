"""A training run as plain data: one flat TOML file, read strictly; every key that is not known is an error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from refseg.errors import InvalidInput, UnknownName
from refseg.training.complaints import told
from refseg.training.sections import (
    AdaptersConfig,
    Change,
    Count,
    DataConfig,
    OptimizerConfig,
    Pattern,
    RunSection,
    ScheduleConfig,
    Section,
)


class RunConfig(Section):
    """A training run; the file beside its checkpoints holds every key and can be given back to `refseg train`."""

    name: str = ""  # names the output folder; absent: the recipe file's name
    family: str
    variant: str
    objective: str = "phrases"
    init: str | None = None  # checkpoint that gives the first weights; absent: from scratch
    init_allow: tuple[
        Pattern, ...
    ] = ()  # regular expressions of weights that may be left out of `init` or fit nothing
    init_without: tuple[
        Pattern, ...
    ] = ()  # regular expressions of weights that start fresh though `init` has them
    init_new_words: bool = False  # whether words of the data that `init` does not know are learnt
    seed: Count = 0
    model: dict[str, Change] = Field(
        default_factory=dict
    )  # fields of the variant's configuration that differ
    loss: dict[str, Change] = Field(
        default_factory=dict
    )  # fields of the family's loss configuration that differ
    data: DataConfig
    optimizer: OptimizerConfig
    adapters: AdaptersConfig = AdaptersConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunSection

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.init_allow and self.init is None:
            raise ValueError("init_allow says which weights of init may be left out, and there is no init")
        if self.init_without and self.init is None:
            raise ValueError("init_without says which weights of init are not taken, and there is no init")
        if self.init_new_words and self.init is None:
            raise ValueError("init_new_words adds words to those that init knows, and there is no init")
        self._adapters_fit()
        if self.data.same_shape and self.run.epoch_ends != "run_on":
            raise ValueError("data.same_shape leaves out what fills no batch; leave out run.epoch_ends")
        clips = self.data.clips
        if clips is not None and (clips.batch_size or 0) > self.run.batch_size:
            raise ValueError(
                f"data.clips.batch_size {clips.batch_size} is more than run.batch_size {self.run.batch_size}"
            )
        warm, steps = self.schedule.warmup_steps, self.run.steps
        if isinstance(warm, int) and isinstance(steps, int) and warm > steps:
            raise ValueError(f"schedule.warmup_steps {warm} is longer than run.steps {steps}")
        return self

    def _adapters_fit(self) -> None:
        if self.adapters.patterns and self.init is None:
            raise ValueError("adapters change the weights of a checkpoint a little, and there is no init")
        if self.adapters.patterns and self.run.sharding != "none":
            raise ValueError("adapters leave little to share out among processes; leave out run.sharding")
        if self.adapters.patterns and self.optimizer.freeze:
            raise ValueError(
                "adapters freeze all that adapters.train_too does not name; leave out optimizer.freeze"
            )


SECTIONS: dict[str, type] = {
    "": RunConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "adapters": AdaptersConfig,
    "schedule": ScheduleConfig,
    "run": RunSection,
}

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
            f"recipe {source}: {'; '.join(told(each, SECTIONS) for each in error.errors())}"
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
