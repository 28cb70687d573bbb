"""All that changes while a run goes on, what stays, and how a run begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refseg import distributed
from refseg.checkpoints import native
from refseg.data.catalog import PhraseDataset
from refseg.errors import InvalidInput
from refseg.files import write_whole_text
from refseg.layers.shared_norm import share_statistics
from refseg.models.base import Family, Objective, ReferringModel
from refseg.training.config import RunConfig, to_toml
from refseg.training.ema import AveragedModel
from refseg.training.log import Log, cut_log
from refseg.training.optimizer import build_optimizer
from refseg.training.recompute import recompute_activations
from refseg.training.resume import (
    LAST_NAME,
    RUN_NAME,
    must_be_same_run,
    random_states,
    restore_random_states,
    seed_all,
    tidy_and_load_state,
)
from refseg.training.start import first_model


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
    if device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    share_statistics(model)  # what torch's own does not cover
    return model
