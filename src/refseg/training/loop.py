"""The training loop, as one straight line: data, model, loss, step, log, and now and then validation and a checkpoint."""

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
from refseg.data.leakage import count_shared_images
from refseg.files import write_durable_text
from refseg.models import catalog
from refseg.models.base import ReferringModel
from refseg.training.batches import BatchLoader, batches, on_one_canvas
from refseg.training.checkpointing import check_disk, load_state, regroup, repair, save
from refseg.training.checks import check_launcher, check_memory, find_doubts
from refseg.training.context import RunContext
from refseg.training.data import (
    SCENES,
    TrainingSets,
    as_training_sets,
    format_data_title,
    open_evaluation_data,
    open_training_data,
)
from refseg.training.final_report import report_if_stopped, report_summary, write_final_card
from refseg.training.finite_check import FiniteCheck, StepContext
from refseg.training.log import Log, board_of
from refseg.training.objective import build_objective
from refseg.training.optimizer import describe_layers as layers_told
from refseg.training.optimizer import schedule_ratio, set_learning_rate, train_mode
from refseg.training.recipe import in_steps
from refseg.training.run_folder import LAST_NAME, LEAKAGE_NAME
from refseg.training.schema import RunConfig
from refseg.training.signals import Interrupted, Interruption
from refseg.training.state import TrainState, start_or_resume, steps_of
from refseg.training.validation import Measurement, deciding_score, measure_objective, measure_phrases


def report_leakage(log: Log, examples: TrainingSets, held_out: PhraseDataset | None, folder: Path) -> None:
    """What was left out because it is measured on, and what is learnt from all the same."""
    if examples.leakage is not None:
        for fallen in examples.leakage.fallen:
            log.say(str(fallen))
        if distributed.is_first():
            write_durable_text(folder / LEAKAGE_NAME, json.dumps(examples.leakage.record(), indent=1) + "\n")
    if held_out is None:
        return
    shared, total = count_shared_images([source.examples for source in examples.sources], held_out)
    if shared:
        log.say(
            f"{shared} of the {total} pictures that the run is measured on are learnt from too; data.exclude_images_of leaves "
            "their records out"
        )


def announce(
    log: Log, run: RunConfig, training: TrainState, *, origin: str, num_examples: int, device: torch.device
) -> None:
    """Says what is trained, on what, and how long."""
    parameters = list(training.model.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    many = "drawn, new ones at every step" if run.data.name == SCENES else f"{num_examples} examples"
    batch = run.run.batch_size * run.optimizer.accumulate * distributed.world_size()
    log.say(f"{run.family} {run.variant}: {total:.2f} M parameters, {trained:.2f} M trained, {origin}")
    log.say(
        f"data {format_data_title(run).replace(',', '')}: {many}, {batch} a step, {run.data.workers} workers"
    )
    for line in layers_told(training.model, run.optimizer.layer_decay):
        log.say(line)
    log.say(f"{run.run.steps} steps on {device} in {run.run.precision}")
    for doubt in find_doubts(run, device):
        log.say(f"note: {doubt}")


def log_and_save(training: TrainState, place: RunContext, interruption: Interruption) -> None:
    """What follows a step now and then: the log, the state with its checkpoint, a measurement, a request to stop.

    The state is saved before a measurement, and says that one is owed: so nothing is lost by one that fails, or is left.

    Raises:
        Interrupted: if the run was asked to stop; its state is saved.
    """
    settings, step = place.run.run, training.step
    ends = step == settings.steps
    measures = place.held_out is not None and (ends or _is_due(step, settings.evaluate_every))
    stops = _stop_is_requested(interruption, place)
    saves = ends or stops or measures or _is_due(step, settings.save_every)
    if saves or step % settings.log_every == 0:
        place.guard.settle(training)
        place.log.flush()
    if saves:
        training.owes_measurement = measures
        save(training, place)
        stops = stops or _stop_is_requested(interruption, place)  # while it saved
    if stops and (measures or not ends):
        place.log.close()
        raise Interrupted(interruption.number or signal.SIGTERM, _describe_stop(training, place))
    run_pending_validation(training, place, interruption)


def run_pending_validation(training: TrainState, place: RunContext, interruption: Interruption) -> None:
    """The measurement that the state of this step was saved without, if any; may be left at any moment.

    Raises:
        Interrupted: if the run was asked to stop; the measurement stays owed.
    """
    if not training.owes_measurement:
        return
    with interruption.at_once(_describe_stop(training, place)):
        found = _validate(training, place)
    training.owes_measurement = False
    if found is None:
        return
    place.log.result(training.step, found.scores)
    is_best = training.kept.note(found.quality, training.step, found.scores, place.run.run)
    if is_best or training.kept.keeps(training.step) or not should_continue(training, place):
        save(training, place)


def should_continue(training: TrainState, place: RunContext) -> bool:
    """Whether a further step follows: not after the last one, nor after `run.patience` measurements without a gain."""
    return training.step < steps_of(place.run) and not training.kept.has_ended(place.run.run)


def _stop_is_requested(interruption: Interruption, place: RunContext) -> bool:
    """Whether some process was asked to stop."""
    return distributed.any_of(interruption.number != 0, place.device)


def _is_due(step: int, every: int | str) -> bool:
    assert isinstance(every, int), "lengths in epochs are resolved before a run begins"
    return every > 0 and step % every == 0


def _describe_stop(training: TrainState, place: RunContext) -> str:
    owed = ", before its measurement was done" if training.owes_measurement else ""
    return (
        f"stopped after step {training.step} of {place.run.run.steps}{owed}; the state is saved in {place.folder}, "
        "go on with --resume"
    )


def _validate(training: TrainState, place: RunContext) -> Measurement | None:
    """What the weights are worth; all processes share the measurement out and know it."""
    if place.held_out is None:
        return None
    with training.result() as model:
        found = _measure(model, place, place.held_out)
    train_mode(training.model)
    return found


def _measure(model: ReferringModel, place: RunContext, held_out: PhraseDataset) -> Measurement:
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
        best_by=deciding_score(run),
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
    examples, training, feed, place = _begin(run, folder, device, is_quiet=is_quiet, anyway=anyway)
    repair(training, place)
    with (
        Interruption(speaks=distributed.is_first() and not is_quiet) as interruption,
        report_if_stopped(training, place),
    ):
        run_pending_validation(training, place, interruption)
        while should_continue(training, place):
            _one_step(training, feed, place)
            log_and_save(training, place, interruption)
    report_summary(training, place)
    for line in feed.tally.summary():
        place.log.say(line)
    write_final_card(place, examples)
    place.log.close()
    return folder / LAST_NAME


def _begin(
    run: RunConfig, folder: Path, device: torch.device, *, is_quiet: bool, anyway: bool
) -> tuple[TrainingSets, TrainState, BatchLoader, RunContext]:
    """Everything that stands before the first step; each refusal is said once, by the first process."""
    distributed.on_first(lambda: check_launcher(run))
    family = catalog.family(run.family)
    state = load_state(folder, run)
    distributed.on_first(partial(regroup, run, state))
    run, regrouping = regroup(run, state)
    side = catalog.variant(run.family, run.variant).frame.size
    examples, plan = open_data(run, side)
    held_out = open_evaluation_data(run, side)
    objective = build_objective(family, run)
    training, origin = start_or_resume(
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
        distributed.on_first(lambda: check_memory(training.model, training.optimizer, plan, device))
    log = _log(run, plan, training, folder, is_quiet=is_quiet)
    report_leakage(log, examples, held_out, folder)
    announce(log, plan, training, origin=origin, num_examples=len(examples), device=device)
    if regrouping:
        log.say(regrouping)
    frame, start = training.model.config.frame, training.step * run.optimizer.accumulate
    guard = FiniteCheck(
        StepContext(plan, folder, device, objective, examples, frame), log, may_overflow=_is_half(run)
    )
    place = RunContext(plan, folder, device, objective, held_out, log, guard)
    distributed.on_first(lambda: check_disk(training, place))
    return examples, training, batches(examples, plan, frame, start=start), place


def _log(run: RunConfig, plan: RunConfig, training: TrainState, folder: Path, *, is_quiet: bool) -> Log:
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


def open_data(run: RunConfig, side: int) -> tuple[TrainingSets, RunConfig]:
    """The training data, and the run with every length in steps of it."""
    if run.data.name == SCENES:
        plan = in_steps(run, None, distributed.world_size())
        return as_training_sets(open_training_data(plan, side), plan), plan
    examples = as_training_sets(open_training_data(run, side), run)
    return examples, in_steps(run, len(examples), distributed.world_size())


def _one_step(training: TrainState, feed: BatchLoader, place: RunContext) -> None:
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
    facts |= _count_skipped(training, feed, place)
    place.log.step(training.step, {"loss": sum_of(terms), **terms, "norm": norm}, facts)


def _count_skipped(training: TrainState, feed: BatchLoader, place: RunContext) -> dict[str, float]:
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


def _gradients(training: TrainState, feed: BatchLoader, place: RunContext) -> tuple[Terms, float]:
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
