"""The state of a run: model, optimizer, averaged weights (EMA), random states and best scores, built and restored.

Also what changes a model for training: torch.compile of its verbs, and gradient checkpointing (activations are computed again
in the backward pass). Best scores decide early stopping.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refseg import distributed
from refseg.checkpoints import native
from refseg.checkpoints.configs import from_plain, to_plain
from refseg.data.sampling import generator_at
from refseg.errors import InvalidInput
from refseg.files import write_durable_text
from refseg.layers.sync_batch_norm import share_statistics
from refseg.models.base import Objective, ReferringModel
from refseg.models.family import Family
from refseg.training.initial_weights import base_of, initial_model
from refseg.training.log import cut_log
from refseg.training.lora import attach
from refseg.training.optimizer import build_optimizer, train_mode
from refseg.training.parallel import (
    Engine,
    build_engine,
    fill,
    fill_optimizer,
    gather_whole,
    is_sharded,
    local,
)
from refseg.training.recipe import examples_per_step, to_toml
from refseg.training.run_folder import RUN_NAME
from refseg.training.schema import RunConfig, RunSection
from refseg.version import __version__


@dataclass
class BestScores:
    """The measurements that count, as plain data that a state can hold."""

    best: float | None = None  # the highest quality so far
    gained: float | None = None  # the quality at the last gain, which later ones are held against
    stale: int = 0  # measurements since then
    ranking: list[tuple[float, int]] = field(
        default_factory=list
    )  # the best ones: quality and step, best first
    scores: dict[str, float] = field(default_factory=dict)  # of the last measurement
    best_scores: dict[str, float] = field(default_factory=dict)  # of the best one
    base: dict[str, str] = field(default_factory=dict)  # name and sha256 of what adapters are trained on

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> BestScores:
        """What a state holds."""
        kept = dict(state["kept"])
        kept["ranking"] = [(quality, step) for quality, step in kept["ranking"]]
        return cls(**kept)

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def note(self, quality: float, step: int, scores: Mapping[str, float], settings: RunSection) -> bool:
        """Takes a measurement in and returns whether it is the best so far."""
        is_best = self.best is None or quality > self.best
        self.scores = dict(scores)
        if is_best:
            self.best, self.best_scores = quality, dict(scores)
        if self.gained is None or quality > self.gained + settings.min_gain:
            self.gained, self.stale = quality, 0
        else:
            self.stale += 1
        others = [(other, at) for other, at in self.ranking if at != step]
        # Of equal ones the earlier stays, as best.safetensors does.
        ordered = sorted([*others, (quality, step)], key=lambda entry: (-entry[0], entry[1]))
        self.ranking = ordered[: settings.keep_best]
        return is_best

    def keeps(self, step: int) -> bool:
        """Whether the measurement after this step is one of the best."""
        return any(at == step for _, at in self.ranking)

    def has_ended(self, settings: RunSection) -> bool:
        """Whether the run has waited for a gain as often as it may."""
        return 0 < settings.patience <= self.stale


class AveragedModel:
    """A copy of a model whose floating weights and statistics follow it slowly; whole numbers are copied.

    The decay grows with the steps, (1 + step) / (10 + step), up to the recipe's: the random first weights would
    otherwise be remembered for thousands of steps.
    """

    def __init__(self, model: ReferringModel, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: ReferringModel, step: int) -> None:
        """Moves the average towards the weights of `model` after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        followed = {name: local(value) for name, value in model.state_dict().items()}
        averages, values = [], []
        for name, held in self.model.state_dict().items():
            average = local(held)  # a model and its copy are dealt out alike
            if average.is_floating_point():
                averages.append(average)
                values.append(followed[name])
            else:
                average.copy_(followed[name])
        torch._foreach_lerp_(averages, values, 1 - decay)


_VERBS = ("encode_visual", "encode_text", "segment")


def compile_verbs(model: ReferringModel) -> None:
    """Lets the model's three verbs compute through torch.compile in training; names of weights do not change.

    Measurements, whose pictures have many sizes, and the average of the weights compute as ever.
    """
    for name in _VERBS:
        setattr(model, name, _in_training(model, getattr(model, name)))


def _in_training(model: ReferringModel, verb: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(verb)

    @wraps(verb)
    def either(*given: Any, **named: Any) -> Any:
        return compiled(*given, **named) if model.training else verb(*given, **named)

    return either


def recompute_activations(model: ReferringModel) -> None:
    """Lets the model's `recomputed_blocks` keep no activations in training; what they compute stays the same.

    Names of weights do not change. Random numbers of a block (dropout) are drawn alike both times.

    Raises:
        InvalidInput: if the model names no such block.
    """
    blocks = model.recomputed_blocks()
    if not blocks:
        raise InvalidInput(
            f"{type(model).__name__} has no blocks that can be computed again; set run.checkpoint_activations = false"
        )
    for block in blocks:
        block.forward = _recomputing(block, block.forward)  # type: ignore[method-assign]


def _recomputing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def recomputed(*given: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*given, **named)
        return checkpoint(forward, *given, use_reentrant=False, **named)

    return recomputed


@dataclass
class TrainState:
    """All that changes while a run goes on."""

    model: ReferringModel
    engine: Engine  # carries the model's steps
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    step: int = 0  # steps done
    kept: BestScores = field(default_factory=BestScores)
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
            own.copy_(gather_whole(weights[name]))
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
            "model": gather_whole(self.model.state_dict(), is_kept=kept),
            "average": gather_whole(average, is_kept=kept),
            "optimizer": gather_whole(self.optimizer.state_dict(), is_kept=kept),
            "scaler": self.scaler.state_dict(),
            "random": distributed.gather(random_states()),  # of every process
        }

    def restore(self, state: dict[str, Any], seed: int) -> None:
        """Takes back what `state` gave, on any number of processes; a process without random states begins new ones."""
        self.step, self.kept, self.skipped = state["step"], BestScores.of(state), state["skipped"]
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


def steps_of(plan: RunConfig) -> int:
    """The steps of a run whose lengths are in steps."""
    steps = plan.run.steps
    assert isinstance(steps, int), "lengths in epochs are resolved before a run begins"
    return steps


def start_or_resume(
    run: RunConfig,
    plan: RunConfig,
    family: Family,
    folder: Path,
    *,
    state: dict[str, Any] | None,
    objective: Objective,
    vocabulary: Sequence[str],
    device: torch.device,
) -> tuple[TrainState, str]:
    """The training at its first step, or where `state` left it; and where its weights come from."""
    seed_all(run.seed)
    if state is None:
        model, origin = initial_model(run, vocabulary)
        distributed.on_first(lambda: write_durable_text(folder / RUN_NAME, to_toml(run)))
    else:
        model, origin = _from_blueprint(family, state["blueprint"]), f"resumed after step {state['step']}"
    training = _start(model.train(), family, objective, plan, device)
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
        {"config": to_plain(model.config), "extra": model.extra_state(), "version": __version__}
    )


def _from_blueprint(family: Family, blueprint: str) -> ReferringModel:
    """The model of a state, whose weights wait to be restored."""
    built = json.loads(blueprint)
    config = from_plain(type(next(iter(family.variants.values()))), built["config"], version=built["version"])
    model = native.blank(family.name, config)
    model.load_extra_state(built["extra"])
    return model


def _start(
    model: ReferringModel, family: Family, objective: Objective, run: RunConfig, device: torch.device
) -> TrainState:
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
    return TrainState(model, engine, scaler, average, examples=examples, shell=shell)


_REGROUPING = 5  # what the numbers are for; see data.sampling


def seed_of_rank(seed: int, step: int, rank: int) -> int:
    """The seed of a process that joins a run after `step`."""
    return int(generator_at(seed, _REGROUPING, step, rank).initial_seed())


def random_states() -> dict[str, Any]:
    """The state of every global random generator, as tensors and plain data."""
    kind, numbers, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states() if torch.cuda.is_initialized() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(numbers, dtype=np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def _cuda_states() -> list[Tensor]:
    # Asking for a GPU's state takes memory on it, and each of several processes has one of its own.
    if distributed.world_size() > 1:
        return [torch.cuda.get_rng_state()]
    return torch.cuda.get_rng_state_all()


def _restore_cuda(states: list[Tensor]) -> None:
    if distributed.world_size() == 1 and len(states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states)
    else:  # saved by another number of processes, or on another number of GPUs
        torch.cuda.set_rng_state(states[0])


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Gives every global random generator the state it had."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():  # a run may move to another device, without exactness
        _restore_cuda(states["cuda"])
    kind, numbers, *rest = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_all(seed: int) -> None:
    """Seeds every global random generator; models that draw (dropout, first weights) use torch's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
