"""What a run keeps: the state first, which alone decides where the run goes on, then the checkpoints that follow from it.

A checkpoint that is kept at a step holds weights that the state of this step holds too. A run killed between the two
finds a checkpoint that is older than its state, or none, and writes it anew when it goes on (`mend`). The other way
round, checkpoints could be newer than the state, and tell of steps that the run goes through again.
"""

from __future__ import annotations

from collections.abc import Sequence

from refseg import distributed
from refseg.checkpoints import native
from refseg.models.base import ReferringModel
from refseg.training.announce import named
from refseg.training.objective import PRECISIONS
from refseg.training.resume import BEST_NAME, LAST_NAME, is_of_step, save_state
from refseg.training.state import Training, Workplace


def keep(training: Training, place: Workplace, *names: str) -> None:
    """Saves the state, then its weights as the checkpoints `names`; all processes come here together.

    Raises:
        InvalidInput: on the first process, if there is no room; what was saved before stays whole.
        Refused: on the others then.
    """
    state = training.state()

    def write() -> None:
        place.log.sync()  # the state must not be on the disk without the steps that led to it
        save_state(place.folder, state)

    distributed.first_alone(write)
    _save(training, place, names)


def mend(training: Training, place: Workplace) -> None:
    """Writes the checkpoints that a kill has left older than the state that `training` was restored from."""
    if training.step == 0:
        return
    names = [LAST_NAME] + [BEST_NAME] * (training.best_step == training.step)
    old = [name for name in names if not is_of_step(place.folder / name, training.step)]
    _save(training, place, distributed.shared(old))


def _save(training: Training, place: Workplace, names: Sequence[str]) -> None:
    if not names:
        return
    with training.result() as model:
        distributed.first_alone(lambda: [_save_checkpoint(training, model, place, name) for name in names])


def _save_checkpoint(training: Training, model: ReferringModel, place: Workplace, name: str) -> None:
    run = place.run
    origin = {"recipe": run.name, "data": named(run), "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    native.save(
        place.folder / name,
        model,
        family=run.family,
        variant=run.variant,
        origin=origin,
        dtype=PRECISIONS[run.run.weights],
    )
