"""Training, as one straight line: data, model, loss, step, log, and now and then a measurement and a checkpoint."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg import distributed
from refseg.checkpoints import native
from refseg.data.catalog import PhraseDataset
from refseg.data.leakage import shared_pictures
from refseg.errors import InvalidInput
from refseg.files import write_whole_text
from refseg.models import catalog
from refseg.models.base import Family, Objective, ReferringModel
from refseg.training.config import RunConfig, to_toml
from refseg.training.ema import AveragedModel
from refseg.training.feed import Feed, batches
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.lengths import in_steps
from refseg.training.log import Log, cut_log
from refseg.training.measure import measure_objective, measure_phrases
from refseg.training.objective import PRECISIONS, build_objective
from refseg.training.optimizer import build_optimizer, schedule_ratio, set_learning_rate
from refseg.training.recompute import recompute_activations
from refseg.training.resume import (
    BEST_NAME,
    LAST_NAME,
    LEAKAGE_NAME,
    RUN_NAME,
    must_be_same_run,
    random_states,
    restore_random_states,
    save_state,
    seed_all,
    tidy_and_load_state,
)
from refseg.training.sources import (
    SCENES,
    Sources,
    as_sources,
    open_evaluation_data,
    open_training_data,
)
from refseg.training.start import first_model

Terms = dict[str, Tensor]

MOST_TOLD = 5
"""Skipped examples that are told with their reason; further ones are counted only."""


@dataclass
class Training:
    """All that changes while a run goes on."""

    model: ReferringModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    step: int = 0  # steps done
    best: float | None = None
    skipped: int = 0  # examples passed over so far

    @property
    def result(self) -> ReferringModel:
        """The model that is evaluated and saved."""
        return self.model if self.average is None else self.average.model

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped; all processes ask for it together."""
        return {
            "step": self.step,  # also the position in the data: a batch depends on its number alone
            "best": self.best,
            "skipped": self.skipped,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": distributed.gather(random_states()),  # of every process
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave.

        Raises:
            InvalidInput: if another number of processes gave it.
        """
        random = state["random"]
        if len(random) != distributed.world_size():
            raise InvalidInput(
                f"the run was saved by {len(random)} processes and cannot go on with {distributed.world_size()}, which "
                "would see other examples; start as many"
            )
        self.step, self.best, self.skipped = state["step"], state["best"], state.get("skipped", 0)
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        restore_random_states(random[distributed.rank()])


@dataclass(frozen=True)
class Workplace:
    """All that stays while a run goes on."""

    run: RunConfig
    folder: Path
    device: torch.device
    objective: Objective
    held_out: PhraseDataset | None  # what the run is measured on
    log: Log


def train(run: RunConfig, folder: Path, *, device: torch.device, is_quiet: bool = False) -> Path:
    """Trains what `run` describes and returns the last checkpoint; goes on from the state in `folder`, if there is one.

    `folder` receives run.toml, log.jsonl, state.pt, last.safetensors and best.safetensors.

    Raises:
        InvalidInput: if the data, the initial weights or the state do not fit the run, or a loss is not finite.
        Interrupted: on Ctrl-C or SIGTERM, after the state is saved.
    """
    family = catalog.family(run.family)
    side = catalog.variant(run.family, run.variant).frame.size
    examples, plan = _open(run, side)
    held_out = open_evaluation_data(run, side)
    objective = build_objective(family, run)
    training, origin = _begin_or_go_on(
        run, plan, family, folder, vocabulary=examples.vocabulary, device=device
    )
    log = Log(
        folder,
        total=_steps(plan),
        is_quiet=is_quiet or not distributed.is_first(),
        is_kept=distributed.is_first(),
        may_overflow=run.run.precision == "float16",
    )
    _tell_leakage(log, examples, held_out, folder)
    _announce(log, plan, training, origin=origin, num_examples=len(examples), device=device)
    feed = batches(
        examples, plan, training.model.config.frame, start=training.step * run.optimizer.accumulate
    )
    place = Workplace(plan, folder, device, objective, held_out, log)
    with Interruption() as interruption:
        while training.step < _steps(plan):
            _one_step(training, feed, place)
            _tell_and_keep(training, place, interruption)
    if training.skipped:
        log.say(f"{training.skipped} examples were skipped; log.jsonl counts them by step")
    log.close()
    return folder / LAST_NAME


def _begin_or_go_on(
    run: RunConfig,
    plan: RunConfig,
    family: Family,
    folder: Path,
    *,
    vocabulary: Sequence[str],
    device: torch.device,
) -> tuple[Training, str]:
    """The training at its first step, or where the state in `folder` left it; and where its weights come from."""
    state = _load_together(folder)
    seed_all(run.seed)
    if state is None:
        model, origin = first_model(run, vocabulary)
        if distributed.is_first():
            write_whole_text(folder / RUN_NAME, to_toml(run))
    else:
        must_be_same_run(folder, run)
        # The last checkpoint was saved with the state; it alone is sure to know its own configuration.
        model, origin = native.load(folder / LAST_NAME)[0], f"resumed after step {state['step']}"
    training = _begin(model.to(device).train(), family, plan, device)
    if state is not None:
        training.restore(state)
    elif distributed.world_size() > 1:
        seed_all(run.seed + distributed.rank())  # weights are equal everywhere, what is dropped out is not
    if distributed.is_first():
        cut_log(folder, training.step)
    return training, origin


def _load_together(folder: Path) -> dict[str, Any] | None:
    """The state of the run in `folder`, tidied by the first process before the others look."""
    if distributed.is_first():
        state = tidy_and_load_state(folder)
        distributed.wait()
        return state
    distributed.wait()
    return tidy_and_load_state(folder)


def _open(run: RunConfig, side: int) -> tuple[Sources, RunConfig]:
    """The training data, and the run with every length in steps of it."""
    if run.data.name == SCENES:
        plan = in_steps(run, None, distributed.world_size())
        return as_sources(open_training_data(plan, side), plan), plan
    examples = as_sources(open_training_data(run, side), run)
    return examples, in_steps(run, len(examples), distributed.world_size())


def _steps(plan: RunConfig) -> int:
    steps = plan.run.steps
    assert isinstance(steps, int), "lengths in epochs are resolved before a run begins"
    return steps


def _one_step(training: Training, feed: Feed, place: Workplace) -> None:
    """One update of the weights, noted in the log."""
    run, began = place.run, time.perf_counter()
    rate = run.optimizer.lr * schedule_ratio(training.step, _steps(run), run.schedule)
    set_learning_rate(training.optimizer, rate)
    terms, waited = _gradients(training, feed, place)
    distributed.average_gradients(training.model.parameters())
    training.scaler.unscale_(training.optimizer)
    moved = [p for p in training.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(moved, run.optimizer.clip_norm or float("inf"))
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average is not None:
        training.average.update(training.model, training.step)
    training.step += 1
    seconds = time.perf_counter() - began
    facts = {"lr": rate, "seconds": seconds, "waiting": waited / seconds}
    facts |= _skipped(training, feed, place)
    terms = {name: distributed.mean_over_ranks(term) for name, term in terms.items()}
    place.log.step(training.step, {"loss": sum_of(terms), **terms, "norm": norm}, facts)


def _skipped(training: Training, feed: Feed, place: Workplace) -> dict[str, float]:
    """The count of examples passed over in this step, for the log; the first ones of a run are told with their reason."""
    reasons = feed.take_skipped()
    for reason in reasons[: max(0, MOST_TOLD - training.skipped)]:
        place.log.say(f"step {training.step}: skipped an example: {reason}")
    may_skip = place.run.data.skip_bad or place.run.data.skip_unseen
    count = distributed.total(len(reasons), place.device) if may_skip else 0
    training.skipped += count
    return {"skipped": count} if count else {}


def _gradients(training: Training, feed: Feed, place: Workplace) -> tuple[Terms, float]:
    """Gradients of one step's batches; the mean of their loss terms, and the seconds spent waiting for data."""
    count, waited = place.run.optimizer.accumulate, 0.0
    means: Terms = {}
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(feed)
        waited += time.perf_counter() - asked
        terms = place.objective(training.model, batch.to(place.device))
        training.scaler.scale(sum_of(terms) / count).backward()
        for name, term in terms.items():
            means[name] = means.get(name, 0.0) + term.detach() / count
    return means, waited


def sum_of(terms: Terms) -> Tensor:
    """The step's loss."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def _begin(model: ReferringModel, family: Family, run: RunConfig, device: torch.device) -> Training:
    if run.run.sync_batch_norm and distributed.world_size() > 1:
        model = _with_shared_statistics(model, device)
    if run.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(
        model=model,
        optimizer=build_optimizer(model, family.param_rules, run.optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=run.run.precision == "float16"),
        average=AveragedModel(model, run.run.ema) if run.run.ema else None,
    )
    if run.run.checkpoint_activations:
        recompute_activations(model)  # after the average was copied, whose blocks keep their own forward
    return training


def _with_shared_statistics(model: ReferringModel, device: torch.device) -> ReferringModel:
    """The model whose batch norms normalise by the examples of all processes; names of weights stay."""
    if device.type != "cuda":
        raise InvalidInput(
            "run.sync_batch_norm needs CUDA devices; set it to false for several processes on CPUs"
        )
    shared: ReferringModel = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return shared


def _tell_and_keep(training: Training, place: Workplace, interruption: Interruption) -> None:
    """What follows a step now and then: the log, a measurement, the checkpoint and the state."""
    settings, step = place.run.run, training.step
    stops, ends = distributed.any_of(interruption.number != 0, place.device), step == settings.steps
    measures = ends or _is_due(step, settings.evaluate_every)
    saves = ends or stops or _is_due(step, settings.save_every)
    if measures or saves or step % settings.log_every == 0:
        place.log.flush()
    if measures and place.held_out is not None and distributed.is_first():
        _measure(training, place, place.held_out)
    if saves:
        state = training.state()
        if distributed.is_first():
            _save_checkpoint(training, place, LAST_NAME)
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


def _measure(training: Training, place: Workplace, held_out: PhraseDataset) -> None:
    run, model = place.run, training.result
    if run.objective.startswith("phrases"):
        found = measure_phrases(model, held_out, device=place.device, best_by=run.run.best_by)
    else:
        found = measure_objective(
            model, held_out, place.objective, batch_size=run.run.batch_size, device=place.device
        )
    training.model.train()
    place.log.result(training.step, found.scores)
    if training.best is None or found.quality > training.best:
        training.best = found.quality
        _save_checkpoint(training, place, BEST_NAME)


def _save_checkpoint(training: Training, place: Workplace, name: str) -> None:
    run = place.run
    origin = {"recipe": run.name, "data": _named(run), "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    native.save(
        place.folder / name,
        training.result,
        family=run.family,
        variant=run.variant,
        origin=origin,
        dtype=PRECISIONS[run.run.weights],
    )


def _tell_leakage(log: Log, examples: Sources, held_out: PhraseDataset | None, folder: Path) -> None:
    """What was left out because it is measured on, and what is learnt from all the same."""
    if examples.leakage is not None:
        for fallen in examples.leakage.fallen:
            log.say(str(fallen))
        if distributed.is_first():
            write_whole_text(folder / LEAKAGE_NAME, json.dumps(examples.leakage.record(), indent=1) + "\n")
    if held_out is None:
        return
    shared, total = shared_pictures([source.examples for source in examples.sources], held_out)
    if shared:
        log.say(
            f"{shared} of the {total} pictures that the run is measured on are learnt from too; data.exclude_images_of leaves "
            "their records out"
        )


def _named(run: RunConfig) -> str:
    """The data of a run with its splits."""
    return " + ".join(f"{one.name}, {one.split}" for one in run.data.each)


def _announce(
    log: Log, run: RunConfig, training: Training, *, origin: str, num_examples: int, device: torch.device
) -> None:
    parameters = list(training.model.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    many = "drawn, new ones at every step" if run.data.name == SCENES else f"{num_examples} examples"
    batch = run.run.batch_size * run.optimizer.accumulate * distributed.world_size()
    log.say(f"{run.family} {run.variant}: {total:.2f} M parameters, {trained:.2f} M trained, {origin}")
    log.say(f"data {_named(run).replace(',', '')}: {many}, {batch} a step, {run.data.workers} workers")
    log.say(f"{run.run.steps} steps on {device} in {run.run.precision}")
