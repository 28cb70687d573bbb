"""What a run says before its first step.

What follows a step now and then: the log, the state with its checkpoint, a measurement, a request to stop.

Training, as one straight line: data, model, loss, step, log, and now and then a measurement and a checkpoint.
"""

from __future__ import annotations

import json
import signal
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from refseg import distributed
from refseg.data.dataset import PhraseDataset
from refseg.data.leakage import shared_pictures
from refseg.files import write_durable_text
from refseg.models import catalog
from refseg.models.base import ReferringModel
from refseg.training.batches import Feed, batches, on_one_canvas
from refseg.training.checkpointing import keep, load_state, mend, must_have_room, regrouped
from refseg.training.checks import doubts, must_agree, must_hold
from refseg.training.context import Workplace
from refseg.training.data import SCENES, Sources, as_sources, named, open_evaluation_data, open_training_data
from refseg.training.final_report import finish_with_card, tell_summary, told_if_stopped
from refseg.training.finite_check import Guard, Scene
from refseg.training.log import Log, board_of
from refseg.training.objective import build_objective
from refseg.training.optimizer import schedule_ratio, set_learning_rate, train_mode
from refseg.training.optimizer import told as layers_told
from refseg.training.recipe import in_steps
from refseg.training.run_folder import LAST_NAME, LEAKAGE_NAME
from refseg.training.schema import RunConfig
from refseg.training.signals import Interrupted, Interruption
from refseg.training.state import Training, begin_or_go_on, steps_of
from refseg.training.validation import Measurement, deciding, measure_objective, measure_phrases


def tell_leakage(log: Log, examples: Sources, held_out: PhraseDataset | None, folder: Path) -> None:
    """What was left out because it is measured on, and what is learnt from all the same."""
    if examples.leakage is not None:
        for fallen in examples.leakage.fallen:
            log.say(str(fallen))
        if distributed.is_first():
            write_durable_text(folder / LEAKAGE_NAME, json.dumps(examples.leakage.record(), indent=1) + "\n")
    if held_out is None:
        return
    shared, total = shared_pictures([source.examples for source in examples.sources], held_out)
    if shared:
        log.say(
            f"{shared} of the {total} pictures that the run is measured on are learnt from too; data.exclude_images_of leaves "
            "their records out"
        )


def announce(
    log: Log, run: RunConfig, training: Training, *, origin: str, num_examples: int, device: torch.device
) -> None:
    """Says what is trained, on what, and how long."""
    parameters = list(training.model.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    many = "drawn, new ones at every step" if run.data.name == SCENES else f"{num_examples} examples"
    batch = run.run.batch_size * run.optimizer.accumulate * distributed.world_size()
    log.say(f"{run.family} {run.variant}: {total:.2f} M parameters, {trained:.2f} M trained, {origin}")
    log.say(f"data {named(run).replace(',', '')}: {many}, {batch} a step, {run.data.workers} workers")
    for line in layers_told(training.model, run.optimizer.layer_decay):
        log.say(line)
    log.say(f"{run.run.steps} steps on {device} in {run.run.precision}")
    for doubt in doubts(run, device):
        log.say(f"note: {doubt}")


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


Terms = dict[str, Tensor]


MOST_TOLD = 5
"""Skipped examples that are told with their reason; further ones are counted only."""


def train(
    run: RunConfig, folder: Path, *, device: torch.device, is_quiet: bool = False, anyway: bool = False
) -> Path:
    """Trains what `run` describes and returns the last checkpoint; goes on from the state in `folder`, if there is one.

    `folder` receives run.toml, log.jsonl, state.pt, last.safetensors and best.safetensors.

    Arguments:
        anyway: begin although gradients and optimizer state alone are larger than free memory.

    Raises:
        InvalidInput: if the data, the initial weights or the state do not fit the run, or a loss is not finite.
        Interrupted: on Ctrl-C, SIGTERM or SIGHUP, after the state is saved.
    """
    examples, training, feed, place = _begun(run, folder, device, is_quiet=is_quiet, anyway=anyway)
    mend(training, place)
    with (
        Interruption(speaks=distributed.is_first() and not is_quiet) as interruption,
        told_if_stopped(training, place),
    ):
        measure_what_is_owed(training, place, interruption)
        while goes_on(training, place):
            _one_step(training, feed, place)
            tell_and_keep(training, place, interruption)
    tell_summary(training, place)
    for line in feed.tally.summary():
        place.log.say(line)
    finish_with_card(place, examples)
    place.log.close()
    return folder / LAST_NAME


def _begun(
    run: RunConfig, folder: Path, device: torch.device, *, is_quiet: bool, anyway: bool
) -> tuple[Sources, Training, Feed, Workplace]:
    """Everything that stands before the first step; each refusal is said once, by the first process."""
    distributed.first_alone(lambda: must_agree(run))
    family = catalog.family(run.family)
    state = load_state(folder, run)
    distributed.first_alone(partial(regrouped, run, state))
    run, regrouping = regrouped(run, state)
    side = catalog.variant(run.family, run.variant).frame.size
    examples, plan = open_data(run, side)
    held_out = open_evaluation_data(run, side)
    objective = build_objective(family, run)
    training, origin = begin_or_go_on(
        run,
        plan,
        family,
        folder,
        state=state,
        objective=objective,
        vocabulary=examples.vocabulary,
        device=device,
    )
    del state  # whose tensors are in the training now
    if not anyway:
        distributed.first_alone(lambda: must_hold(training.model, training.optimizer, plan, device))
    log = _log(run, plan, training, folder, is_quiet=is_quiet)
    tell_leakage(log, examples, held_out, folder)
    announce(log, plan, training, origin=origin, num_examples=len(examples), device=device)
    if regrouping:
        log.say(regrouping)
    frame, start = training.model.config.frame, training.step * run.optimizer.accumulate
    guard = Guard(Scene(plan, folder, device, objective, examples, frame), log, may_overflow=_is_half(run))
    place = Workplace(plan, folder, device, objective, held_out, log, guard)
    distributed.first_alone(lambda: must_have_room(training, place))
    return examples, training, batches(examples, plan, frame, start=start), place


def _log(run: RunConfig, plan: RunConfig, training: Training, folder: Path, *, is_quiet: bool) -> Log:
    """The log of the run; of several processes the first one's speaks and is kept."""
    log = Log(
        folder,
        total=steps_of(plan),
        is_quiet=is_quiet or not distributed.is_first(),
        is_kept=distributed.is_first(),
        may_overflow=_is_half(run),
        workers=run.data.workers,
    )
    log.board = board_of(folder, training.step, is_wanted=run.run.tensorboard and distributed.is_first())
    return log


def _is_half(run: RunConfig) -> bool:
    return run.run.precision == "float16"


def open_data(run: RunConfig, side: int) -> tuple[Sources, RunConfig]:
    """The training data, and the run with every length in steps of it."""
    if run.data.name == SCENES:
        plan = in_steps(run, None, distributed.world_size())
        return as_sources(open_training_data(plan, side), plan), plan
    examples = as_sources(open_training_data(run, side), run)
    return examples, in_steps(run, len(examples), distributed.world_size())


def _one_step(training: Training, feed: Feed, place: Workplace) -> None:
    """One update of the weights, noted in the log."""
    run, began = place.run, time.perf_counter()
    rate = run.optimizer.lr * schedule_ratio(training.step, steps_of(run), run.schedule)
    set_learning_rate(training.optimizer, rate)
    terms, waited = _gradients(training, feed, place)
    training.scaler.unscale_(training.optimizer)
    norm = training.engine.clip(training.model.parameters(), run.optimizer.clip_norm)
    means = distributed.mean_over_ranks(torch.stack([term.float() for term in terms.values()]))
    terms = dict(zip(terms, means, strict=True))
    place.guard.look(training, terms, norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average is not None:
        training.average.update(training.model, training.step)
    training.step += 1
    seconds = time.perf_counter() - began
    facts = {"lr": rate, "seconds": seconds, "waiting": waited / seconds}
    facts |= _skipped(training, feed, place)
    place.log.step(training.step, {"loss": sum_of(terms), **terms, "norm": norm}, facts)


def _skipped(training: Training, feed: Feed, place: Workplace) -> dict[str, float]:
    """The count of examples passed over in this step, for the log; the first ones of a run are told with their reason."""
    reasons = feed.take_skipped()
    for reason in reasons[: max(0, MOST_TOLD - training.skipped)]:
        place.log.say(f"step {training.step}: skipped an example: {reason}")
    for sentence in feed.tally.news() if reasons else ():
        place.log.say(f"step {training.step}: {sentence}")
    may_skip = place.run.data.skip_bad or place.run.data.skip_unseen
    count = distributed.total(len(reasons), place.device) if may_skip else 0
    training.skipped += count
    return {"skipped": count} if count else {}


def _gradients(training: Training, feed: Feed, place: Workplace) -> tuple[Terms, float]:
    """Gradients of one step's batches; the mean of their loss terms, and the seconds spent waiting for data."""
    count, waited = place.run.optimizer.accumulate, 0.0
    means: Terms = {}
    for number in range(count):
        asked = time.perf_counter()
        batch = next(feed)
        waited += time.perf_counter() - asked
        batch = on_one_canvas(batch.to(place.device), feed.frame)
        with training.engine.adding(is_last=number == count - 1):
            terms = training.engine.step(batch)
            training.scaler.scale(sum_of(terms) / count).backward()
        for name, term in terms.items():
            means[name] = means.get(name, 0.0) + term.detach() / count
    return means, waited


def sum_of(terms: Terms) -> Tensor:
    """The step's loss."""
    return torch.stack([term.float() for term in terms.values()]).sum()
