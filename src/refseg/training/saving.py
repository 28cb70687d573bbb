"""What a run keeps: the state first, which alone decides where the run goes on, then the checkpoints that follow from it.

A checkpoint that is kept at a step holds weights that the state of this step holds too. A run killed between the two
finds a checkpoint that is older than its state, or none, and writes it anew when it goes on (`mend`). The other way
round, checkpoints could be newer than the state, and tell of steps that the run goes through again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from refseg import distributed
from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel
from refseg.training.adapter_file import ADAPTERS_NAME, save_adapters
from refseg.training.adapters import as_stored
from refseg.training.announce import named
from refseg.training.best import drop_others, has_best, save_best
from refseg.training.config import RunConfig
from refseg.training.objective import PRECISIONS
from refseg.training.resume import LAST_NAME, STATE_NAME, is_of_step, own_files, save_state
from refseg.training.room import free_disk
from refseg.training.state import Training, Workplace


def keep(training: Training, place: Workplace) -> None:
    """Saves the state, then the checkpoints that it speaks of and that are not there; all processes come here together.

    Raises:
        InvalidInput: on the first process, if there is no room; what was saved before stays whole.
        Refused: on the others then.
    """
    state = training.state()

    def write() -> None:
        place.log.sync()  # the state must not be on the disk without the steps that led to it
        save_state(place.folder, state)

    distributed.first_alone(write)
    mend(training, place)


def mend(training: Training, place: Workplace) -> None:
    """Writes the checkpoints of the step that was saved last, as far as they are not there yet.

    After a kill they are older than the state; the run then begins with this.
    """
    if training.step == 0:
        return
    is_kept = training.kept.keeps(training.step) and not training.owes_measurement
    is_old = not is_of_step(place.folder / LAST_NAME, training.step)
    lacks_best = is_kept and not has_best(training, place)
    if not any(distributed.shared((is_old, lacks_best))):
        return
    with training.result() as model:

        def write() -> None:
            save = partial(_save_checkpoint, training, model, place)
            if is_old:
                save(LAST_NAME)
            if lacks_best:
                save_best(training, place, save)
            drop_others(training, place)

        distributed.first_alone(write)


@dataclass(frozen=True)
class Sizes:
    """Bytes that a run writes."""

    state: int
    checkpoint: int


def sizes(training: Training, run: RunConfig) -> Sizes:
    """What the state and one checkpoint will take, headers left out."""
    weights = _bytes(training.model.state_dict().values())
    average = 0 if training.average is None else _bytes(training.average.model.state_dict().values())
    held = _bytes(value for values in training.optimizer.state.values() for value in values.values())
    trained = _bytes(p for group in training.optimizer.param_groups for p in group["params"])
    moments = held or 2 * trained  # before the first step, those of Adam
    share = PRECISIONS[run.run.weights].itemsize / torch.float32.itemsize
    return Sizes(weights + average + moments, int(weights * share))


def must_have_room(training: Training, place: Workplace) -> None:
    """Looks, before the first step, whether the disk has room for what the run will save.

    A file is whole before it takes the place of the one before, so the largest one is there twice for a moment. Too
    little for a single save is refused; too little for all that may be kept is said.

    Raises:
        InvalidInput: naming what is free and what is needed.
    """
    found, folder = sizes(training, place.run), place.folder
    there = [folder / name for name in (STATE_NAME, LAST_NAME) if (folder / name).exists()]
    once = max(found.state, found.checkpoint) if len(there) == 2 else found.state + found.checkpoint
    settings = place.run.run
    kept = 0 if settings.evaluate_examples == 0 else settings.keep_best
    every = 2 * found.state + (2 + kept) * found.checkpoint
    free = free_disk(folder)
    if free < once:
        raise InvalidInput(
            f"{folder} has room for {_told(free)}, and saving this run takes {_told(once)}; make room, or give another folder "
            "with --out"
        )
    missing = every - sum(path.stat().st_size for path in own_files(folder)) - free
    if missing > 0:
        place.log.say(
            f"note: {folder} has room for {_told(free)}; {_told(missing)} more may be needed before the run ends"
        )


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _told(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _save_checkpoint(training: Training, model: ReferringModel, place: Workplace, name: str) -> None:
    run = place.run
    origin = {"recipe": run.name, "data": named(run), "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    if name == LAST_NAME and training.kept.base:  # before the checkpoint, which says that all is there
        save_adapters(place.folder / ADAPTERS_NAME, model, training, run, origin)
    native.save(
        place.folder / name,
        as_stored(model),
        family=run.family,
        variant=run.variant,
        origin=origin,
        dtype=PRECISIONS[run.run.weights],
    )
