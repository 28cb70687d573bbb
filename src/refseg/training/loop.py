"""Training, as one straight line: data, model, loss, step, log, and now and then a measurement and a checkpoint."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from refseg import distributed
from refseg.models import catalog
from refseg.training.announce import announce, tell_leakage
from refseg.training.board import board_of
from refseg.training.canvas import on_one_canvas
from refseg.training.card import finish_with_card
from refseg.training.config import RunConfig
from refseg.training.engine import must_agree
from refseg.training.evidence import Scene
from refseg.training.feed import Feed, batches
from refseg.training.guard import Guard
from refseg.training.interruption import Interruption
from refseg.training.keeping import goes_on, measure_what_is_owed, tell_and_keep
from refseg.training.lengths import in_steps
from refseg.training.log import Log
from refseg.training.objective import build_objective
from refseg.training.optimizer import schedule_ratio, set_learning_rate
from refseg.training.refusals import must_hold
from refseg.training.regroup import load_state, regrouped
from refseg.training.resume import LAST_NAME
from refseg.training.saving import mend, must_have_room
from refseg.training.sources import SCENES, Sources, as_sources, open_evaluation_data, open_training_data
from refseg.training.state import Training, Workplace, begin_or_go_on, steps_of
from refseg.training.summary import tell_summary, told_if_stopped

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
