"""Lengths of a run as a recipe gives them, in steps (500) or in epochs ("12 epochs"), and as steps alone."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainValidator

from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from refseg.training.config import RunConfig

_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")


def _length(value: Any, least: int) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    if isinstance(value, str) and (told := _EPOCHS.fullmatch(value)) and float(told[1]) > 0:
        return value
    raise ValueError(f'a number of steps from {least} on, or a text such as "12 epochs", was expected')


def _drop(value: Any) -> int | float | str:
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    try:
        return _length(value, 0)
    except ValueError:
        raise ValueError(
            'a part of the run in [0, 1] such as 0.75, a number of steps, or a text such as "8 epochs" was expected'
        ) from None


Length = Annotated[int | str, PlainValidator(lambda value: _length(value, 1))]
"""A number of steps, or of epochs as text."""

LengthOrNone = Annotated[int | str, PlainValidator(lambda value: _length(value, 0))]
"""A length, or 0 for none."""

Drop = Annotated[int | float | str, PlainValidator(_drop)]
"""A length, or a part of the run as a float."""


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
