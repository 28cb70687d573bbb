"""Initial weights: from scratch, from a checkpoint, or from a part of one where the recipe says which."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from refseg.checkpoints import native, zoo
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.framing import FrameSpec
from refseg.models import catalog
from refseg.models.base import LossConfig, ModelConfig, ReferringModel
from refseg.training.lora import check_learns
from refseg.training.schema import RunConfig

Settings = TypeVar("Settings", ModelConfig, LossConfig, FrameSpec)


@dataclass(frozen=True)
class LoadReport:
    """What a model took from a checkpoint."""

    taken: tuple[str, ...]
    grown: tuple[str, ...]  # taken, with rows for new words at the end
    fresh: tuple[str, ...]  # weights of the model that keep their first values
    unused: tuple[str, ...]  # weights of the file that the model has no place for

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} tensors taken"]
        if self.grown:
            parts.append(f"{len(self.grown)} with new rows: {_some(self.grown)}")
        if self.fresh:
            parts.append(f"{len(self.fresh)} start fresh: {_some(self.fresh)}")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file unused: {_some(self.unused)}")
        return "; ".join(parts)


def initial_model(run: RunConfig, words: Sequence[str]) -> tuple[ReferringModel, str]:
    """The model at step 0 and a sentence on where its weights come from.

    `words` are those of the data's phrases. A model from scratch learns them; one from a checkpoint keeps its own, and
    learns new ones only where the recipe says `init_new_words`. Models with a tokenizer read every word.

    Raises:
        InvalidInput: if the checkpoint is of another family, or lacks words of the data.
        CheckpointMismatch: if weights are left on either side that `init_allow` does not name.
    """
    if run.init is None:
        config = with_changes(catalog.variant(run.family, run.variant), run.model, "model")
        return catalog.build(run.family, config.for_words(words)), "from scratch"
    source, header, _ = zoo.load(run.init)
    if header.family != run.family:
        raise InvalidInput(f"init {run.init} is of family {header.family}; the recipe trains {run.family}")
    new = new_words(source, words)
    if new and not run.init_new_words:
        raise InvalidInput(
            f"the data uses {len(new)} words that init {run.init} does not know: {_some(new)}; set init_new_words = true "
            "to learn them, or say the phrases with known words"
        )
    base = source.config if header.variant == run.variant else catalog.variant(run.family, run.variant)
    config = with_changes(base, run.model, "model").for_words((*_vocabulary(source), *new))
    if config == source.config and not run.init_without:
        return source, f"from {run.init}"
    model = catalog.build(run.family, config)
    model.load_extra_state(source.extra_state())
    weights = _without(source.state_dict(), run.init_without)
    allow = (*run.init_allow, *run.init_without)
    taken = load_matching(model, weights, allow, new_rows=len(new))
    check_learns((*taken.fresh, *taken.grown), model, run.adapters)
    return model, f"from {run.init}: {taken}"


def _without(weights: Mapping[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    """The weights whose names no pattern finds.

    Raises:
        InvalidInput: if a pattern finds none.
    """
    idle = [pattern for pattern in patterns if not any(re.search(pattern, name) for name in weights)]
    if idle:
        raise InvalidInput(f"init_without {idle[0]!r} finds no weight of the initial checkpoint")
    return {
        name: tensor
        for name, tensor in weights.items()
        if not any(re.search(pattern, name) for pattern in patterns)
    }


def new_words(model: ReferringModel, words: Sequence[str]) -> list[str]:
    """The words that a model with a closed vocabulary cannot read; none for a model with a tokenizer."""
    known = _vocabulary(model)
    if not known:
        return []
    pieces = dict.fromkeys(piece for word in words for piece in re.findall(r"[^\W_]+", word.lower()))
    return [piece for piece in pieces if not _reads(model, f"{known[0]} {piece}")]


def load_matching(
    model: ReferringModel, weights: Mapping[str, Tensor], allow: Sequence[str], *, new_rows: int = 0
) -> LoadReport:
    """Copies weights of equal name and shape into the model; what does not fit must match a pattern of `allow`.

    A tensor of the model with exactly `new_rows` rows more than the file's takes the file's as its first rows.

    Raises:
        CheckpointMismatch: naming the weights left on either side that no pattern allows.
    """
    own = model.state_dict()
    grown = [name for name in own if name in weights and _is_longer(own[name], weights[name], new_rows)]
    taken = [name for name in own if name in weights and own[name].shape == weights[name].shape] + grown
    fresh = [name for name in own if name not in taken]
    unused = [name for name in weights if name not in taken]
    missing = [name for name in fresh if not _may_differ(name, allow)]
    unexpected = [name for name in unused if not _may_differ(name, allow)]
    if missing or unexpected:
        raise CheckpointMismatch(
            "the initial checkpoint does not fit the model, and init_allow names no pattern for what is left",
            missing=missing,
            unexpected=unexpected,
        )
    with torch.no_grad():
        for name in taken:
            own[name][tuple(slice(0, side) for side in weights[name].shape)] = weights[name]
    return LoadReport(tuple(taken), tuple(grown), tuple(fresh), tuple(unused))


def with_changes(settings: Settings, changes: Mapping[str, Any], section: str) -> Settings:
    """Frozen settings with some fields replaced; a table changes fields of a nested part.

    Raises:
        UnknownName: if a field does not exist.
        InvalidInput: if a value is of another kind than the field's.
    """
    values: dict[str, Any] = {}
    names = [field.name for field in dataclasses.fields(settings)]
    for name, value in changes.items():
        if name not in names:
            raise UnknownName(f"key of [{section}]", name, names)
        values[name] = _like(getattr(settings, name), value, f"{section}.{name}")
    return dataclasses.replace(settings, **values)


def _like(current: Any, value: Any, where: str) -> Any:
    if isinstance(value, dict) and dataclasses.is_dataclass(current):
        return with_changes(current, value, where)  # type: ignore[type-var]
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if current is not None and type(value) is not type(current):
        raise InvalidInput(
            f"{where} is {value!r}; a {type(current).__name__} such as {current!r} was expected"
        )
    return value


def _vocabulary(model: ReferringModel) -> tuple[str, ...]:
    known: tuple[str, ...] = getattr(model.config, "vocabulary", ())
    return known


def _reads(model: ReferringModel, phrase: str) -> bool:
    try:
        model.tokenize([phrase])
    except InvalidInput:
        return False
    return True


def _is_longer(own: Tensor, given: Tensor, rows: int) -> bool:
    return rows > 0 and given.ndim > 0 and own.shape == (given.shape[0] + rows, *given.shape[1:])


def _may_differ(name: str, allow: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in allow)


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def base_of(run: RunConfig) -> dict[str, str]:
    """The checkpoint that the adapters of a run belong to: its name in the recipe and the sha256 of its weights."""
    if not run.adapters.patterns or run.init is None:
        return {}
    return {"name": run.init, "sha256": native.read_header(zoo.resolve(run.init)).sha256}
