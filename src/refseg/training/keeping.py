"""What follows a step now and then: the log, the state with its checkpoint, a measurement, a request to stop."""

from __future__ import annotations

import signal

from refseg import distributed
from refseg.data.catalog import PhraseDataset
from refseg.models.base import ReferringModel
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.measure import Measurement, deciding, measure_objective, measure_phrases
from refseg.training.optimizer import train_mode
from refseg.training.saving import keep
from refseg.training.state import Training, Workplace, steps_of


def tell_and_keep(training: Training, place: Workplace, interruption: Interruption) -> None:
    """What follows a step now and then: the log, the state with its checkpoint, a measurement, a request to stop.

    The state is saved before a measurement, and says that one is owed: so nothing is lost by one that fails, or is left.

    Raises:
        Interrupted: if the run was asked to stop; its state is saved.
    """
    settings, step = place.run.run, training.step
    ends = step == settings.steps
    measures = place.held_out is not None and (ends or _is_due(step, settings.evaluate_every))
    stops = _is_asked(interruption, place)
    saves = ends or stops or measures or _is_due(step, settings.save_every)
    if saves or step % settings.log_every == 0:
        place.guard.settle(training)
        place.log.flush()
    if saves:
        training.owes_measurement = measures
        keep(training, place)
        stops = stops or _is_asked(interruption, place)  # while it saved
    if stops and (measures or not ends):
        place.log.close()
        raise Interrupted(interruption.number or signal.SIGTERM, _stopped(training, place))
    measure_what_is_owed(training, place, interruption)


def measure_what_is_owed(training: Training, place: Workplace, interruption: Interruption) -> None:
    """The measurement that the state of this step was saved without, if any; may be left at any moment.

    Raises:
        Interrupted: if the run was asked to stop; the measurement stays owed.
    """
    if not training.owes_measurement:
        return
    with interruption.at_once(_stopped(training, place)):
        found = _measured(training, place)
    training.owes_measurement = False
    if found is None:
        return
    place.log.result(training.step, found.scores)
    is_best = training.kept.note(found.quality, training.step, found.scores, place.run.run)
    if is_best or training.kept.keeps(training.step) or not goes_on(training, place):
        keep(training, place)


def goes_on(training: Training, place: Workplace) -> bool:
    """Whether a further step follows: not after the last one, nor after `run.patience` measurements without a gain."""
    return training.step < steps_of(place.run) and not training.kept.has_ended(place.run.run)


def _is_asked(interruption: Interruption, place: Workplace) -> bool:
    """Whether some process was asked to stop."""
    return distributed.any_of(interruption.number != 0, place.device)


def _is_due(step: int, every: int | str) -> bool:
    assert isinstance(every, int), "lengths in epochs are resolved before a run begins"
    return every > 0 and step % every == 0


def _stopped(training: Training, place: Workplace) -> str:
    owed = ", before its measurement was done" if training.owes_measurement else ""
    return (
        f"stopped after step {training.step} of {place.run.run.steps}{owed}; the state is saved in {place.folder}, "
        "go on with --resume"
    )


def _measured(training: Training, place: Workplace) -> Measurement | None:
    """What the weights are worth; all processes share the measurement out and know it."""
    if place.held_out is None:
        return None
    with training.result() as model:
        found = _measurement(model, place, place.held_out)
    train_mode(training.model)
    return found


def _measurement(model: ReferringModel, place: Workplace, held_out: PhraseDataset) -> Measurement:
    run = place.run
    if run.objective.startswith("phrases"):
        return measure_phrases(model, held_out, device=place.device, best_by=run.run.best_by)
    return measure_objective(
        model,
        held_out,
        place.objective,
        batch_size=run.run.batch_size
        * distributed.world_size(),  # terms are means over a batch, whoever holds it
        device=place.device,
        best_by=deciding(run),
    )
