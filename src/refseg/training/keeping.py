"""What follows a step now and then: the log, a measurement, the checkpoint and the state."""

from __future__ import annotations

import signal
from contextlib import suppress

from refseg import distributed
from refseg.checkpoints import native
from refseg.data.catalog import PhraseDataset
from refseg.training.adapter_file import ADAPTERS_NAME, save_adapters
from refseg.training.adapters import as_stored
from refseg.training.announce import named
from refseg.training.config import RunConfig
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.measure import measure_objective, measure_phrases
from refseg.training.objective import PRECISIONS
from refseg.training.optimizer import train_mode
from refseg.training.resume import BEST_NAME, LAST_NAME, save_state
from refseg.training.state import Training, Workplace, steps_of


def tell_and_keep(training: Training, place: Workplace, interruption: Interruption) -> None:
    """What follows a step now and then: the log, a measurement, the checkpoint and the state."""
    settings, step = place.run.run, training.step
    stops, ends = distributed.any_of(interruption.number != 0, place.device), step == settings.steps
    measures = ends or _is_due(step, settings.evaluate_every)
    if measures or step % settings.log_every == 0:
        place.log.flush()
    if measures and place.held_out is not None and distributed.is_first():
        _measure(training, place, place.held_out)
    if measures:
        training.kept = distributed.gather(training.kept)[0]  # what the first process knows
        ends = not goes_on(training, place)
    if ends or stops or _is_due(step, settings.save_every):
        place.log.flush()
        _save(training, place)
    if stops and not ends:
        place.log.close()
        raise Interrupted(
            interruption.number or signal.SIGTERM,
            f"stopped after step {step} of {settings.steps}; the state is saved in {place.folder}, go on with --resume",
        )


def goes_on(training: Training, place: Workplace) -> bool:
    """Whether a further step follows: not after the last one, nor after `run.patience` measurements without a gain."""
    settings = place.run.run
    return training.step < steps_of(place.run) and not training.kept.has_ended(settings)


def _save(training: Training, place: Workplace) -> None:
    """The last checkpoint and the state; what is no longer one of the best goes when both are safe."""
    state = training.state()
    if distributed.is_first():
        _save_checkpoint(training, place, LAST_NAME)
        if training.kept.base:
            _save_adapters(training, place)
        save_state(place.folder, state)
        _drop_others(training, place)
    distributed.wait()


def _is_due(step: int, every: int | str) -> bool:
    assert isinstance(every, int), "lengths in epochs are resolved before a run begins"
    return every > 0 and step % every == 0


def _measure(training: Training, place: Workplace, held_out: PhraseDataset) -> None:
    run, model = place.run, training.result
    if run.objective == "phrases":
        found = measure_phrases(model, held_out, device=place.device, best_by=run.run.best_by)
    else:
        found = measure_objective(
            model, held_out, place.objective, batch_size=run.run.batch_size, device=place.device
        )
    train_mode(training.model)
    place.log.result(training.step, found.scores)
    is_best = training.kept.note(found.quality, training.step, found.scores, run.run)
    if run.run.keep_best > 1 and training.kept.keeps(training.step):
        _save_checkpoint(training, place, best_at(training.step))
    if is_best:
        _keep_best(training, place)


def best_at(step: int | str) -> str:
    """The file of one of several best checkpoints."""
    return f"best-at-{step}.safetensors"


def _keep_best(training: Training, place: Workplace) -> None:
    """The best checkpoint under its own name; one of several best ones is not written twice where the disk can link."""
    one, best = place.folder / best_at(training.step), place.folder / BEST_NAME
    linked = place.folder / f".{BEST_NAME}.part"
    if place.run.run.keep_best > 1:
        linked.unlink(missing_ok=True)
        with suppress(OSError):  # a disk without links gets a second copy
            linked.hardlink_to(one)
            linked.replace(best)
            return
    _save_checkpoint(training, place, BEST_NAME)


def _drop_others(training: Training, place: Workplace) -> None:
    """Takes away checkpoints that once were among the best, or that a run which was killed left behind."""
    kept = {best_at(step) for _, step in training.kept.ranking}
    for path in place.folder.glob(best_at("*")):
        if path.name not in kept or place.run.run.keep_best == 1:
            path.unlink()


def _origin(training: Training, run: RunConfig) -> dict[str, str]:
    origin = {"recipe": run.name, "data": named(run), "step": str(training.step)}
    return origin | {"objective": run.objective} | ({"init": run.init} if run.init else {})


def _save_checkpoint(training: Training, place: Workplace, name: str) -> None:
    run = place.run
    native.save(
        place.folder / name,
        as_stored(training.result),
        family=run.family,
        variant=run.variant,
        origin=_origin(training, run),
        dtype=PRECISIONS[run.run.weights],
    )


def _save_adapters(training: Training, place: Workplace) -> None:
    run = place.run
    save_adapters(
        place.folder / ADAPTERS_NAME,
        training.result,
        learnt={name for name, weight in training.model.named_parameters() if weight.requires_grad},
        family=run.family,
        variant=run.variant,
        origin=_origin(training, run),
        base=training.kept.base,
    )
