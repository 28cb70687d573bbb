"""Training, as one straight line: data, model, loss, step, log, and now and then a measurement and a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg import distributed
from refseg.checkpoints import native
from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog
from refseg.models.base import Family, Objective, ReferringModel
from refseg.structures import Batch
from refseg.training.config import RunConfig, differences, read_recipe, to_toml
from refseg.training.ema import AveragedModel
from refseg.training.feed import batches, open_evaluation_data, open_training_data
from refseg.training.interruption import Interrupted, Interruption
from refseg.training.log import Log, cut_log
from refseg.training.measure import measure_objective, measure_phrases
from refseg.training.optimizer import build_optimizer, schedule_ratio, set_learning_rate
from refseg.training.resume import load_state, random_states, restore_random_states, save_state, seed_all
from refseg.training.start import changed, first_model

RUN_NAME, LAST_NAME, BEST_NAME = "run.toml", "last.safetensors", "best.safetensors"
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Terms = dict[str, Tensor]


@dataclass
class Training:
    """All that changes while a run goes on."""

    model: ReferringModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    step: int = 0  # steps done
    best: float | None = None

    @property
    def result(self) -> ReferringModel:
        """The model that is evaluated and saved."""
        return self.model if self.average is None else self.average.model

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped."""
        return {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.step, self.best = state["step"], state["best"]
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        restore_random_states(state["random"])


def train(run: RunConfig, folder: Path, *, device: torch.device, quiet: bool = False) -> Path:
    """Trains what `run` describes and returns the last checkpoint; goes on from the state in `folder`, if there is one.

    `folder` receives run.toml, log.jsonl, state.pt, last.safetensors and best.safetensors.

    Raises:
        InvalidInput: if the data, the initial weights or the state do not fit the run, or a loss is not finite.
        Interrupted: on Ctrl-C or SIGTERM, after the state is saved.
    """
    family = catalog.family(run.family)
    side = catalog.variant(run.family, run.variant).frame.size
    examples = open_training_data(run, side)
    seed_all(run.seed)
    model, origin = first_model(run, getattr(examples, "vocabulary", None))
    objective = _objective(family, run)
    training = _begin(model.to(device).train(), family, run, device)
    resumed = _restore(training, folder, run)
    cut_log(folder, training.step)
    log = Log(
        folder, interval=run.run.log_every, total=run.run.steps, quiet=quiet or not distributed.is_first()
    )
    _announce(log, run, training, origin=origin, count=len(examples), resumed=resumed, device=device)
    feed = batches(examples, run, model.config.frame, start=training.step * run.optimizer.accumulate)
    with Interruption() as interruption:
        while training.step < run.run.steps:
            began = time.perf_counter()
            rate = run.optimizer.lr * schedule_ratio(training.step, run.run.steps, run.schedule)
            set_learning_rate(training.optimizer, rate)
            terms, norm, waited = _one_step(training, feed, objective, run, device)
            if training.average is not None:
                training.average.update(training.model, training.step)
            training.step += 1
            seconds = time.perf_counter() - began
            facts = {"lr": rate, "seconds": seconds, "waiting": waited / seconds}
            log.step(training.step, {"loss": sum_of(terms), **terms, "norm": norm}, facts)
            _keep_and_tell(training, run, folder, log, interruption, objective, device)
    log.close()
    return folder / LAST_NAME


def _one_step(
    training: Training,
    feed: Iterator[Batch],
    objective: Objective,
    run: RunConfig,
    device: torch.device,
) -> tuple[Terms, Tensor, float]:
    """One update of the weights; its mean loss terms, the gradient's norm, and the seconds spent waiting for data."""
    parts, waited = [], 0.0
    for _ in range(run.optimizer.accumulate):
        asked = time.perf_counter()
        batch = next(feed)
        waited += time.perf_counter() - asked
        terms = objective(training.model, batch.to(device))
        loss = sum_of(terms) / run.optimizer.accumulate
        training.scaler.scale(loss).backward()
        parts.append({name: term.detach() for name, term in terms.items()})
    training.scaler.unscale_(training.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(
        [p for p in training.model.parameters() if p.grad is not None],
        run.optimizer.clip_norm or float("inf"),
    )
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
    return means, norm, waited


def sum_of(terms: Terms) -> Tensor:
    """The step's loss."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def _objective(family: Family, run: RunConfig) -> Objective:
    """What a run minimises: the family's loss of phrases, or one of its named objectives, in the run's precision."""
    if run.objective != "phrases" and run.objective not in family.objectives:
        raise UnknownName(f"objective of {family.name}", run.objective, ["phrases", *family.objectives])
    dtype = _PRECISIONS[run.run.precision]
    criterion = family.criterion(changed(family.loss, run.loss, "loss"))

    def phrases(model: ReferringModel, batch: Batch) -> Terms:
        if batch.targets is None:
            raise InvalidInput(
                f"the data set {run.data.name}, split {run.data.split}, carries no masks to learn from"
            )
        with _autocast(batch, dtype):
            output = model(batch)
        return criterion(
            output.to(dtype=torch.float32), batch.targets
        )  # losses lose digits in half precision

    def named(model: ReferringModel, batch: Batch) -> Terms:
        with _autocast(batch, dtype):
            return family.objectives[run.objective](model, batch)

    return phrases if run.objective == "phrases" else named


def _autocast(batch: Batch, dtype: torch.dtype) -> Any:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(batch.clips.pixels.device.type, dtype)


def _begin(model: ReferringModel, family: Family, run: RunConfig, device: torch.device) -> Training:
    if run.run.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return Training(
        model=model,
        optimizer=build_optimizer(model, family.param_rules, run.optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=run.run.precision == "float16"),
        average=AveragedModel(model, run.run.ema) if run.run.ema else None,
    )


def _restore(training: Training, folder: Path, run: RunConfig) -> bool:
    """Whether the run goes on from a state in `folder`; writes the resolved run where it begins."""
    state = load_state(folder)
    if state is None:
        (folder / RUN_NAME).write_text(to_toml(run), encoding="utf-8")
        return False
    differing = differences(read_recipe(folder / RUN_NAME), run)
    if differing:
        raise InvalidInput(
            f"the run in {folder} was started with other values of {', '.join(differing)}; resume it with its own "
            f"{folder / RUN_NAME}, or start anew in another folder with --out"
        )
    training.restore(state)
    return True


def _keep_and_tell(
    training: Training,
    run: RunConfig,
    folder: Path,
    log: Log,
    interruption: Interruption,
    objective: Objective,
    device: torch.device,
) -> None:
    """What follows a step now and then: the log, a measurement, the state and the checkpoints."""
    step, ends = training.step, training.step == run.run.steps
    stops = interruption.number != 0
    if step % run.run.log_every == 0 or ends or stops or step % run.run.save_every == 0:
        log.flush()
    measures = ends or (run.run.evaluate_every and step % run.run.evaluate_every == 0)
    if measures and run.run.evaluate_examples:
        log.flush()
        _measure(training, run, folder, log, objective, device)
    if step % run.run.save_every == 0 or ends or stops:
        _save_checkpoint(training, run, folder / LAST_NAME)
        save_state(folder, training.state())
    if stops and not ends:
        log.close()
        raise Interrupted(
            interruption.number,
            f"stopped after step {step} of {run.run.steps}, state saved in {folder}; go on with --resume",
        )


def _measure(
    training: Training, run: RunConfig, folder: Path, log: Log, objective: Objective, device: torch.device
) -> None:
    model = training.result
    examples = open_evaluation_data(run.data, model.config.frame.size, count=run.run.evaluate_examples)
    if run.objective == "phrases":
        found = measure_phrases(model, examples, device=device)
    else:
        found = measure_objective(model, examples, objective, batch_size=run.run.batch_size, device=device)
    training.model.train()
    log.result(training.step, found.scores)
    if training.best is None or found.quality > training.best:
        training.best = found.quality
        _save_checkpoint(training, run, folder / BEST_NAME)


def _save_checkpoint(training: Training, run: RunConfig, path: Path) -> None:
    if not distributed.is_first():
        return
    origin = {"recipe": run.name, "data": f"{run.data.name}, {run.data.split}", "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    dtype = _PRECISIONS[run.run.weights]
    native.save(path, training.result, family=run.family, variant=run.variant, origin=origin, dtype=dtype)


def _announce(
    log: Log,
    run: RunConfig,
    training: Training,
    *,
    origin: str,
    count: int,
    resumed: bool,
    device: torch.device,
) -> None:
    parameters = list(training.model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    many = "drawn, new ones at every step" if run.data.name == "scenes" else f"{count} examples"
    batch = run.run.batch_size * run.optimizer.accumulate * distributed.world_size()
    log.say(
        f"{run.family} {run.variant}: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained, {origin}"
    )
    log.say(f"data {run.data.name} {run.data.split}: {many}, {batch} a step, {run.data.workers} workers")
    log.say(
        f"{run.run.steps} steps on {device} in {run.run.precision}"
        + (f", from step {training.step}" if resumed else "")
    )
