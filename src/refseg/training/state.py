"""All that changes while a run goes on, what stays, and how a run begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import refseg
from refseg import distributed
from refseg.checkpoints import native
from refseg.checkpoints.configs import from_plain, to_plain
from refseg.data.catalog import PhraseDataset
from refseg.files import write_durable_text
from refseg.layers.shared_norm import share_statistics
from refseg.models.base import Family, Objective, ReferringModel
from refseg.training.adapter_file import base_of
from refseg.training.adapters import attach
from refseg.training.compiling import compile_verbs
from refseg.training.config import RunConfig, to_toml
from refseg.training.ema import AveragedModel
from refseg.training.engine import Engine, build_engine, is_sharded
from refseg.training.guard import Guard
from refseg.training.kept import Kept
from refseg.training.lengths import examples_per_step
from refseg.training.log import Log, cut_log
from refseg.training.optimizer import build_optimizer, train_mode
from refseg.training.recompute import recompute_activations
from refseg.training.regroup import seed_of_rank
from refseg.training.resume import (
    RUN_NAME,
    random_states,
    restore_random_states,
    seed_all,
)
from refseg.training.shards import fill, fill_optimizer, whole
from refseg.training.start import first_model


@dataclass
class Training:
    """All that changes while a run goes on."""

    model: ReferringModel
    engine: Engine  # carries the model's steps
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    step: int = 0  # steps done
    kept: Kept = field(default_factory=Kept)
    owes_measurement: bool = False  # whether the step done last is still to be measured
    skipped: int = 0  # examples passed over so far
    examples: int = 0  # of one step, on all processes
    shell: ReferringModel | None = (
        None  # of a model that is dealt out: a whole one, filled when it is asked for
    )

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What moves the weights."""
        return self.engine.optimizer

    @contextmanager
    def result(self) -> Iterator[ReferringModel]:
        """The model that is evaluated and saved, whole on every process; all of them ask for it together."""
        model = self.model if self.average is None else self.average.model
        if self.shell is None:
            yield model
            return
        weights = model.state_dict()
        for name, own in self.shell.state_dict().items():
            own.copy_(whole(weights[name]))
        try:
            yield self.shell
        finally:
            self.shell.to("cpu")  # a measurement has moved it

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped, for the first process to save.

        All processes ask for it together.
        """
        kept = distributed.is_first()
        share_extra_state(self.model)
        average = None if self.average is None else self.average.model.state_dict()
        return {
            "step": self.step,  # also the position in the data: a batch depends on its number alone
            "kept": self.kept.state(),
            "owes_measurement": self.owes_measurement,
            "skipped": self.skipped,
            "examples": self.examples,
            "processes": distributed.world_size(),
            "blueprint": _blueprint(self.model),
            "model": whole(self.model.state_dict(), is_kept=kept),
            "average": whole(average, is_kept=kept),
            "optimizer": whole(self.optimizer.state_dict(), is_kept=kept),
            "scaler": self.scaler.state_dict(),
            "random": distributed.gather(random_states()),  # of every process
        }

    def restore(self, state: dict[str, Any], seed: int) -> None:
        """Takes back what `state` gave, on any number of processes; a process without random states begins new ones."""
        self.step, self.kept, self.skipped = state["step"], Kept.of(state), state["skipped"]
        self.owes_measurement = state["owes_measurement"]
        fill(self.model.state_dict(), state["model"])
        if self.average is not None:
            fill(self.average.model.state_dict(), state["average"])
        fill_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        random, rank = state["random"], distributed.rank()
        if rank < len(random):
            restore_random_states(random[rank])
        else:
            seed_all(seed_of_rank(seed, self.step, rank))


@dataclass(frozen=True)
class Workplace:
    """All that stays while a run goes on."""

    run: RunConfig
    folder: Path
    device: torch.device
    objective: Objective
    held_out: PhraseDataset | None  # what the run is measured on
    log: Log
    guard: Guard


def steps_of(plan: RunConfig) -> int:
    """The steps of a run whose lengths are in steps."""
    steps = plan.run.steps
    assert isinstance(steps, int), "lengths in epochs are resolved before a run begins"
    return steps


def begin_or_go_on(
    run: RunConfig,
    plan: RunConfig,
    family: Family,
    folder: Path,
    *,
    state: dict[str, Any] | None,
    objective: Objective,
    vocabulary: Sequence[str],
    device: torch.device,
) -> tuple[Training, str]:
    """The training at its first step, or where `state` left it; and where its weights come from."""
    seed_all(run.seed)
    if state is None:
        model, origin = first_model(run, vocabulary)
        distributed.first_alone(lambda: write_durable_text(folder / RUN_NAME, to_toml(run)))
    else:
        model, origin = _from_blueprint(family, state["blueprint"]), f"resumed after step {state['step']}"
    training = _begin(model.train(), family, objective, plan, device)
    if state is not None:
        training.restore(state, run.seed)
    else:
        training.kept.base = base_of(run)
    if state is None and distributed.world_size() > 1:
        # Weights are equal everywhere, what is dropped out is not.
        seed_all(run.seed + distributed.rank())
    if distributed.is_first():
        cut_log(folder, training.step, keeps_measurement=not training.owes_measurement)
    return training, origin


def share_extra_state(model: ReferringModel) -> None:
    """Gives the model of every process what those of the others carry beside weights, such as vectors of words they met.

    All processes ask for it together.
    """
    own = model.extra_state()
    digests = distributed.gather(hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest())
    if len(set(digests)) == 1:  # nearly always, and then nothing large is sent
        return
    for rank, other in enumerate(distributed.gather(own)):
        if rank != distributed.rank() and other != own:
            model.load_extra_state(other)


def _blueprint(model: ReferringModel) -> str:
    """All but its weights that building a model anew needs: what the data and the first checkpoint made of the recipe."""
    return json.dumps(
        {"config": to_plain(model.config), "extra": model.extra_state(), "version": refseg.__version__}
    )


def _from_blueprint(family: Family, blueprint: str) -> ReferringModel:
    """The model of a state, whose weights wait to be restored."""
    built = json.loads(blueprint)
    config = from_plain(type(next(iter(family.variants.values()))), built["config"], version=built["version"])
    model = native.blank(family.name, config)
    model.load_extra_state(built["extra"])
    return model


def _begin(
    model: ReferringModel, family: Family, objective: Objective, run: RunConfig, device: torch.device
) -> Training:
    sharded = is_sharded(run)
    if run.run.sync_batch_norm and distributed.world_size() > 1:
        share_statistics(model)
    if not sharded:  # parts come to the device one by one
        model = model.to(device)
    if run.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if run.adapters.patterns:
        attach(model, run.adapters)
    optimizer = build_optimizer(model, family.param_rules, run.optimizer)
    train_mode(model)
    shell = deepcopy(model).requires_grad_(False).eval() if sharded else None
    average = AveragedModel(model, run.run.ema) if run.run.ema else None
    if run.run.checkpoint_activations:
        recompute_activations(model)  # after the copies, whose blocks keep their own forward
    if run.run.compile:
        compile_verbs(model)
    engine = build_engine(model, objective, optimizer, run, device)
    if average is not None and engine.is_sharded:
        engine.shard_alike(average.model)
    scaler = torch.amp.GradScaler(device.type, enabled=run.run.precision == "float16")
    examples = examples_per_step(run, distributed.world_size())
    return Training(model, engine, scaler, average, examples=examples, shell=shell)
