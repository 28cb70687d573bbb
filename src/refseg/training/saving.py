"""What a run keeps: the state first, which alone decides where the run goes on, then the checkpoints that follow from it.

A checkpoint that is kept at a step holds weights that the state of this step holds too. A run killed between the two
finds a checkpoint that is older than its state, or none, and writes it anew when it goes on (`mend`). The other way
round, checkpoints could be newer than the state, and tell of steps that the run goes through again.
"""

from __future__ import annotations

from functools import partial

from refseg import distributed
from refseg.checkpoints import native
from refseg.models.base import ReferringModel
from refseg.training.adapter_file import ADAPTERS_NAME, save_adapters
from refseg.training.adapters import as_stored
from refseg.training.announce import named
from refseg.training.best import drop_others, has_best, save_best
from refseg.training.objective import PRECISIONS
from refseg.training.resume import LAST_NAME, is_of_step, save_state
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
