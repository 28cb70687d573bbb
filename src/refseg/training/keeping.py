"""What follows a step now and then: the log, a measurement, the checkpoint and the state."""

from __future__ import annotations

import signal
from functools import partial

from refseg import distributed
from refseg.checkpoints import native
from refseg.data.catalog import PhraseDataset
from refseg.models.base import ReferringModel
from refseg.training.adapter_file import ADAPTERS_NAME, save_adapters
from refseg.training.adapters import as_stored
from refseg.training.announce import named
from refseg.training.best import drop_others, save_best
from refseg.training.config import RunConfig
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.measure import LOSS, measure_objective, measure_phrases
from refseg.training.objective import PRECISIONS
from refseg.training.optimizer import train_mode
from refseg.training.resume import LAST_NAME, save_state
from refseg.training.sections import DEFAULT_SCORE
from refseg.training.state import Training, Workplace, steps_of
from refseg.training.summary import tell_summary


def tell_and_keep(training: Training, place: Workplace, interruption: Interruption) -> None:
    """What follows a step now and then: the log, a measurement, the checkpoint and the state."""
    settings, step = place.run.run, training.step
    stops, ends = distributed.any_of(interruption.number != 0, place.device), step == settings.steps
    measures = ends or _is_due(step, settings.evaluate_every)
    saves = ends or stops or measures or _is_due(step, settings.save_every)
    if saves or step % settings.log_every == 0:
        place.log.flush()
    if saves:
        with training.result() as model:
            if measures and place.held_out is not None and distributed.is_first():
                _measure(training, model, place, place.held_out)
            if distributed.is_first():
                _save_checkpoint(training, model, place, LAST_NAME)
        training.kept = distributed.shared(training.kept)  # of the first process, which measured
        ends = not goes_on(training, place)
        state = training.state()
        if distributed.is_first():
            save_state(place.folder, state)
            drop_others(training, place)
        distributed.wait()
    if stops and not ends:
        tell_summary(training, place, is_short=True)
        place.log.close()
        raise Interrupted(
            interruption.number or signal.SIGTERM,
            f"stopped after step {step} of {settings.steps}; the state is saved in {place.folder}, go on with --resume",
        )


def goes_on(training: Training, place: Workplace) -> bool:
    """Whether a further step follows: not after the last one, nor after `run.patience` measurements without a gain."""
    return training.step < steps_of(place.run) and not training.kept.has_ended(place.run.run)


def _is_due(step: int, every: int | str) -> bool:
    assert isinstance(every, int), "lengths in epochs are resolved before a run begins"
    return every > 0 and step % every == 0


def _measure(training: Training, model: ReferringModel, place: Workplace, held_out: PhraseDataset) -> None:
    run = place.run
    if run.objective.startswith("phrases"):
        found = measure_phrases(model, held_out, device=place.device, best_by=run.run.best_by)
    else:
        found = measure_objective(
            model,
            held_out,
            place.objective,
            batch_size=run.run.batch_size,
            device=place.device,
            best_by=_term(run),
        )
    train_mode(training.model)
    place.log.result(training.step, found.scores)
    is_best = training.kept.note(found.quality, training.step, found.scores, run.run)
    save_best(training, place, partial(_save_checkpoint, training, model, place), is_best=is_best)


def _term(run: RunConfig) -> str:
    """What an objective is best by: where the recipe leaves the score of phrases, all its terms together."""
    return LOSS if run.run.best_by == DEFAULT_SCORE else run.run.best_by


def _save_checkpoint(training: Training, model: ReferringModel, place: Workplace, name: str) -> None:
    run = place.run
    origin = {"recipe": run.name, "data": named(run), "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    native.save(
        place.folder / name,
        as_stored(model),
        family=run.family,
        variant=run.variant,
        origin=origin,
        dtype=PRECISIONS[run.run.weights],
    )
    if name == LAST_NAME and training.kept.base:
        save_adapters(place.folder / ADAPTERS_NAME, model, training, run, origin)
