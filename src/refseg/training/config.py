"""A training run as plain data: one flat TOML file, read strictly; every key that is not known is an error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refseg.errors import InvalidInput, UnknownName, nearest

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = bool | int | float | str | list[int] | list[float] | list[str] | dict[str, Any]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataConfig(_Section):
    """What is learnt from, how an example is varied, and who prepares it."""

    name: str  # "scenes", or the path of a phrase file in the open form
    split: str = "train"  # "" = every line of a file
    phrases: Count | None = None  # phrases of one example, drawn anew each time; absent: all it has, scenes 3
    registers: dict[str, Annotated[float, Field(ge=0)]] = {}  # scenes: share of each kind of phrase
    size: Positive | None = None  # scenes: side of the picture in pixels; absent: the family's canvas
    frames: Positive = 1  # frames of an example; 1 = an image
    flip: Share = 0.0  # probability of mirroring, with left and right exchanged in the phrase
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None  # random resize
    crop: Share = 0.0  # probability of a random crop that keeps a part of every object
    workers: Count = 0  # processes that prepare batches; 0 = the training process itself
    evaluate_name: str | None = None  # where it is measured; absent: `name`
    evaluate_split: str = "val"  # "" = every line of a file


class OptimizerConfig(_Section):
    """AdamW, and what happens to gradients before it."""

    lr: Annotated[float, Field(gt=0)]
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    decay_vectors: bool = False  # whether biases and the scales of norms decay too
    clip_norm: Annotated[float, Field(ge=0)] = 0.0  # largest norm of the whole gradient; 0 = no clipping
    accumulate: Positive = 1  # batches whose gradients make one step


class ScheduleConfig(_Section):
    """The learning rate over the run, as a share of `optimizer.lr`."""

    kind: Literal["constant", "step", "poly", "cosine"] = "cosine"
    warmup_steps: Count = 0  # linear rise from near zero
    final_ratio: Share = 0.0  # poly and cosine: the share that is left at the end
    power: Annotated[float, Field(gt=0)] = 0.9  # poly
    drops: tuple[
        Share, ...
    ] = ()  # step: the parts of the run after which the rate is multiplied by drop_ratio
    drop_ratio: Share = 0.1  # step


class RunSection(_Section):
    """How long, in which precision, and what is told and kept on the way."""

    steps: Positive
    batch_size: Positive  # examples of one batch on one process
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of autocast; weights stay float32
    channels_last: bool = False
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights; 0 = none
    weights: Literal["float32", "bfloat16", "float16"] = "float32"  # in which checkpoints are stored
    evaluate_every: Count = 0  # steps; 0 = only at the end
    evaluate_examples: Count = 100  # 0 = never evaluate
    save_every: Positive = 500  # steps
    log_every: Positive = 20  # steps


class RunConfig(_Section):
    """A training run; the file beside its checkpoints holds every key and can be given back to `refseg train`."""

    name: str = ""  # names the output folder; absent: the recipe file's name
    family: str
    variant: str
    objective: str = "phrases"
    init: str | None = None  # checkpoint that gives the first weights; absent: from scratch
    init_allow: tuple[
        str, ...
    ] = ()  # regular expressions of weights that may be left out of `init` or fit nothing
    init_new_words: bool = False  # whether words of the data that `init` does not know are learnt
    seed: Count = 0
    model: dict[str, Change] = {}  # fields of the variant's configuration that differ
    loss: dict[str, Change] = {}  # fields of the family's loss configuration that differ
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunSection

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.init_allow and self.init is None:
            raise ValueError("init_allow says which weights of init may be left out, and there is no init")
        if self.init_new_words and self.init is None:
            raise ValueError("init_new_words adds words to those that init knows, and there is no init")
        if self.schedule.warmup_steps > self.run.steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} is longer than run.steps {self.run.steps}"
            )
        return self


# Keys that may differ when a run is taken up again: they change what is seen of the run, not what it computes.
FREE_KEYS = frozenset(
    {"name", "data.workers", "run.log_every", "run.save_every", "run.evaluate_every", "run.evaluate_examples"}
    | {"data.evaluate_name", "data.evaluate_split"}
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
    try:
        return RunConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise InvalidInput(f"recipe {source}: {'; '.join(map(_told, error.errors()))}") from error


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
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a text, so that the shell's quotes need no second pair
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise InvalidInput(f"override {override!r}: {part!r} is a value, not a section")
    values[parts[-1]] = value


def _told(error: Any) -> str:
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = list(_section(place[:-1]).model_fields)
        elsewhere = [key for key in _every_key() if key.split(".")[-1] == place[-1]]
        near = elsewhere or nearest(place[-1], known)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
        where = f"section [{'.'.join(place[:-1])}]" if place[:-1] else "the top section"
        return f"unknown key {place[-1]!r} in {where}; {hint}"
    if error["type"] == "missing":
        return f"{'.'.join(place)} is missing"
    said = error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {said}, not {error['input']!r}" if place else said


def _every_key() -> list[str]:
    """Every key of a recipe with its section, such as `run.steps`."""
    sections = {name: _section([name]) for name in ("data", "optimizer", "schedule", "run")}
    return [f"{name}.{key}" for name, section in sections.items() for key in section.model_fields]


def _section(place: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = RunConfig
    for name in place:
        kind = section.model_fields[name].annotation
        section = next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel))
    return section
