"""What follows a step now and then: the log, a measurement, the checkpoint and the state."""

from __future__ import annotations

import signal

from refseg import distributed
from refseg.checkpoints import native
from refseg.data.catalog import PhraseDataset
from refseg.models.base import ReferringModel
from refseg.training.announce import named
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.measure import measure_objective, measure_phrases
from refseg.training.objective import PRECISIONS
from refseg.training.resume import BEST_NAME, LAST_NAME, save_state
from refseg.training.state import Training, Workplace


def tell_and_keep(training: Training, place: Workplace, interruption: Interruption) -> None:
    """What follows a step now and then: the log, a measurement, the checkpoint and the state."""
    settings, step = place.run.run, training.step
    stops, ends = distributed.any_of(interruption.number != 0, place.device), step == settings.steps
    measures = ends or _is_due(step, settings.evaluate_every)
    saves = ends or stops or _is_due(step, settings.save_every)
    if measures or saves or step % settings.log_every == 0:
        place.log.flush()
    if measures or saves:
        with training.result() as model:
            if measures and place.held_out is not None:
                _measure(training, model, place, place.held_out)
            if saves and distributed.is_first():
                _save_checkpoint(training, model, place, LAST_NAME)
    if saves:
        state = training.state()
        if distributed.is_first():
            save_state(place.folder, state)
        distributed.wait()
    if stops and not ends:
        place.log.close()
        raise Interrupted(
            interruption.number or signal.SIGTERM,
            f"stopped after step {step} of {settings.steps}; the state is saved in {place.folder}, go on with --resume",
        )


def _is_due(step: int, every: int | str) -> bool:
    assert isinstance(every, int), "lengths in epochs are resolved before a run begins"
    return every > 0 and step % every == 0


def _measure(training: Training, model: ReferringModel, place: Workplace, held_out: PhraseDataset) -> None:
    run = place.run
    if run.objective == "phrases":
        found = measure_phrases(model, held_out, device=place.device, best_by=run.run.best_by)
    else:
        found = measure_objective(
            model, held_out, place.objective, batch_size=run.run.batch_size, device=place.device
        )
    training.model.train()
    place.log.result(training.step, found.scores)
    if training.best is None or found.quality > training.best:
        training.best = found.quality
        if distributed.is_first():
            _save_checkpoint(training, model, place, BEST_NAME)


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
