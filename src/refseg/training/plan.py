"""What a run trains, needs and lasts, said before it starts: `refseg train --plan`, as data and as tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refseg import distributed
from refseg.evaluation.table import aligned
from refseg.models import catalog
from refseg.training.checks import as_steps, check_possible, find_doubts, memory_advice, shards_of
from refseg.training.data import SCENES, open_evaluation_data
from refseg.training.dry_run import DryRunCost, MemoryTooSmall, dry_run, side_of
from refseg.training.initial_weights import initial_model
from refseg.training.loop import open_data
from refseg.training.lora import attach
from refseg.training.optimizer import build_optimizer
from refseg.training.parallel import is_sharded
from refseg.training.recipe import epoch_length, examples_per_step
from refseg.training.resources import (
    MemoryRoom,
    TrainingBytes,
    free_disk,
    local_processes,
    memory_on,
    training_bytes,
)
from refseg.training.schema import RunConfig
from refseg.training.state import random_states, restore_random_states, seed_all

COMFORT = 0.9
"""The share of free memory that a run may plan to fill; the rest is for batches larger than those that were tried."""


_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelPart:
    """A top-level module of the model."""

    name: str
    trained: int  # parameters
    frozen: int


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters of one learning rate and weight decay."""

    lr: float  # the highest
    weight_decay: float
    parameters: int
    parts: tuple[str, ...]  # the top-level modules that they are of


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is learnt from, in which portions."""

    data: str
    examples: int | None  # None = drawn without end
    epochs: float | None
    batch_size: int  # of one process
    accumulate: int
    processes: int
    examples_per_step: int
    steps: int
    warmup_steps: int
    evaluations: int
    evaluation_examples: int
    final_examples: int  # evaluated once more for the model card
    saves: int


@dataclass(frozen=True, slots=True)
class Hours:
    """Where the time of a run goes."""

    steps: float
    evaluations: float
    saves: float
    step_seconds: float
    waiting: float  # share of a step spent waiting for its batches

    @property
    def total(self) -> float:
        """All of it."""
        return self.steps + self.evaluations + self.saves


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that one process needs on its device, beside those it has."""

    held: TrainingBytes
    start: (
        int | None
    )  # main memory before the model: Python, torch, the data's index; None unmeasured, 0 on a GPU
    activations: int | None  # the rest of the peak: activations, batches, work space; None unmeasured
    workers: int  # what the processes that prepare batches have for themselves; 0 unmeasured, or on a GPU
    processes: int  # that share the device's memory
    room: MemoryRoom | None
    buckets: int = (
        0  # second copies of gradients, by which processes that each hold all weights exchange them
    )

    @property
    def peak(self) -> int | None:
        """Of one process with its workers."""
        if self.activations is None or self.start is None:
            return None
        return self.start + self.held.total + self.buckets + self.activations + self.workers

    @property
    def needed(self) -> int:
        """Of all processes on the device; without a measurement, the part that is known."""
        return self.processes * (self.held.total + self.buckets if self.peak is None else self.peak)

    @property
    def fits(self) -> bool | None:
        """None where nothing tells."""
        if self.room is None:
            return None
        if self.needed > self.room.free:
            return False
        return None if self.peak is None else True


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that the folder of a run takes, and what is free there."""

    state: int
    checkpoint: int
    files: int  # state and checkpoints
    needed: int  # with the largest of them twice, as while it is replaced
    free: int


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All that is known of a run before it begins."""

    family: str
    variant: str
    objective: str
    origin: str
    device: str
    precision: str
    schedule: str
    parts: tuple[ModelPart, ...]
    groups: tuple[Group, ...]
    amounts: Amounts
    memory: MemoryPlan
    disk: Disk
    hours: Hours | None  # None unmeasured
    rehearsal: DryRunCost | None
    trouble: str | None  # why nothing could be measured
    doubts: tuple[str, ...]
    advice: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As plain data, with the sums."""
        values = asdict(self)
        values["memory"] |= {"peak": self.memory.peak, "needed": self.memory.needed, "fits": self.memory.fits}
        if self.hours is not None:
            values["hours"]["total"] = self.hours.total
        return values


def make_plan(run: RunConfig, folder: Path, device: torch.device, *, measures: bool = True) -> TrainingPlan:
    """Plans a run into `folder`, which stays as it is; a few steps are made in a process of their own, beside it.

    Raises:
        InvalidInput: if the run is impossible, its data is absent, or a step fails.
    """
    check_possible(run, device)
    random = random_states()
    try:
        plan, parts, groups, held, amounts, origin = _examine_data(run)
    finally:
        restore_random_states(random)
    rehearsal, trouble = _try_dry_run(plan, folder, device) if measures else (None, None)
    memory = _memory(plan, held, rehearsal, device)
    disk = _disk(plan, held, rehearsal, folder)
    return TrainingPlan(
        family=plan.family,
        variant=plan.variant,
        objective=plan.objective,
        origin=origin,
        device=str(device),
        precision=plan.run.precision,
        schedule=plan.schedule.kind,
        parts=parts,
        groups=groups,
        amounts=amounts,
        memory=memory,
        disk=disk,
        hours=None if rehearsal is None else _hours(plan, amounts, rehearsal),
        rehearsal=rehearsal,
        trouble=trouble,
        doubts=tuple(find_doubts(plan, device)),
        advice=_advice(plan, memory, disk, parts, device, is_too_small=trouble is not None),
    )


def _examine_data(
    run: RunConfig,
) -> tuple[RunConfig, tuple[ModelPart, ...], tuple[Group, ...], TrainingBytes, Amounts, str]:
    """What needs no step: the model as the run would begin with it, built on the CPU and dropped again."""
    side = side_of(run)
    sources, plan = open_data(run, side)
    held_out = open_evaluation_data(run, side)
    seed_all(run.seed)
    model, origin = initial_model(run, sources.vocabulary)
    model.train()
    if run.adapters.patterns:
        attach(model, run.adapters)
        origin = f"{origin}; adapters of rank {run.adapters.rank}"
    optimizer = build_optimizer(model, catalog.family(run.family).param_rules, plan.optimizer)
    held = training_bytes(model, optimizer, is_averaged=bool(plan.run.ema))
    measured = 0 if held_out is None else len(held_out)
    amounts = _amounts(plan, len(sources), measured, _final_examples(run, measured, side))
    return plan, parts_of(model), groups_of(model, optimizer, plan), held, amounts, origin


def _final_examples(run: RunConfig, measured: int, side: int) -> int:
    """Examples that the model card is measured on."""
    if run.run.final_protocols == "none" or not run.objective.startswith("phrases"):
        return 0
    if run.run.final_examples is None:
        return measured
    told = run.run.model_copy(update={"evaluate_examples": run.run.final_examples})
    held_out = open_evaluation_data(run.model_copy(update={"run": told}), side)
    return 0 if held_out is None else len(held_out)


def parts_of(model: nn.Module) -> tuple[ModelPart, ...]:
    """The parameters of every top-level module, and of the model itself; those that two share count for the first."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(_part_of(name), [0, 0])
        count[0 if parameter.requires_grad else 1] += parameter.numel()
    return tuple(ModelPart(name, *count) for name, count in counts.items())


def _part_of(name: str) -> str:
    return name.partition(".")[0] if "." in name else "(itself)"


def groups_of(model: nn.Module, optimizer: torch.optim.Optimizer, plan: RunConfig) -> tuple[Group, ...]:
    """The optimizer's groups, the largest first."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        parts = dict.fromkeys(_part_of(names[id(p)]) for p in group["params"] if id(p) in names)
        lr = plan.optimizer.lr * group.get("lr_scale", 1.0)
        groups.append(
            Group(lr, group.get("weight_decay", 0.0), sum(p.numel() for p in group["params"]), tuple(parts))
        )
    return tuple(sorted(groups, key=lambda group: -group.parameters))


def _amounts(plan: RunConfig, examples: int, evaluation_examples: int, final_examples: int) -> Amounts:
    section, processes = plan.run, distributed.world_size()
    steps, each = as_steps(section.steps), examples_per_step(plan, processes)
    is_drawn = plan.data.name == SCENES
    epoch = epoch_length(None if is_drawn else examples, plan, processes)
    evaluations = 0
    if evaluation_examples:
        every = as_steps(section.evaluate_every)
        evaluations = math.ceil(steps / every) if every else 1
    return Amounts(
        data=" + ".join(f"{one.name} {one.split}" for one in plan.data.each),
        examples=None if is_drawn else examples,
        epochs=None if epoch is None else steps * each / epoch,
        batch_size=section.batch_size,
        accumulate=plan.optimizer.accumulate,
        processes=processes,
        examples_per_step=each,
        steps=steps,
        warmup_steps=as_steps(plan.schedule.warmup_steps),
        evaluations=evaluations,
        evaluation_examples=evaluation_examples,
        final_examples=final_examples,
        saves=_saves(plan, is_measured=evaluations > 0),
    )


def _saves(plan: RunConfig, *, is_measured: bool) -> int:
    """Steps after which the state is saved: those of run.save_every, those before an evaluation, and the last."""
    section, steps = plan.run, as_steps(plan.run.steps)
    every = [as_steps(section.save_every), as_steps(section.evaluate_every) if is_measured else 0]
    return len({steps}.union(*(range(each, steps + 1, each) for each in every if each)))


def _try_dry_run(plan: RunConfig, folder: Path, device: torch.device) -> tuple[DryRunCost | None, str | None]:
    try:
        return dry_run(plan, folder, device), None
    except MemoryTooSmall as error:
        return None, str(error)


def _memory(
    plan: RunConfig, held: TrainingBytes, rehearsal: DryRunCost | None, device: torch.device
) -> MemoryPlan:
    dealt = held.on_each(shards_of(plan))
    sharing = local_processes() if device.type == "cpu" else 1
    buckets = held.gradients if distributed.world_size() > 1 and not is_sharded(plan) else 0
    if rehearsal is None:
        return MemoryPlan(dealt, None, None, 0, sharing, memory_on(device), buckets)
    if rehearsal.device_peak_bytes is not None:
        start, peak, workers = 0, rehearsal.device_peak_bytes, 0
    else:
        start, peak, workers = rehearsal.start_bytes, rehearsal.peak_bytes, rehearsal.workers_bytes
    # The rehearsal, on one process, held all; its activations are those of every process.
    work = max(0, peak - start - held.total)
    return MemoryPlan(dealt, start, work, workers, sharing, rehearsal.room, buckets)


def _disk(plan: RunConfig, held: TrainingBytes, rehearsal: DryRunCost | None, folder: Path) -> Disk:
    if rehearsal is None:
        state = held.weights + held.optimizer + held.average
        checkpoint = held.weights * _BYTES[plan.run.weights] // 4
    else:
        state, checkpoint = rehearsal.state_bytes, rehearsal.checkpoint_bytes
    kept = 1 if plan.run.evaluate_examples == 0 else 1 + plan.run.keep_best  # the last one, and the best
    files = (
        state + kept * checkpoint + (held.gradients if plan.adapters.patterns else 0)
    )  # adapters, by themselves
    return Disk(state, checkpoint, files, files + max(state, checkpoint), free_disk(folder))


def _hours(plan: RunConfig, amounts: Amounts, rehearsal: DryRunCost) -> Hours:
    """Steps at the pace of their slower half: without workers computing and preparing take turns, with them they overlap."""
    compute = rehearsal.compute_seconds
    preparing = rehearsal.batch_seconds * amounts.accumulate / max(1, plan.data.workers)
    step = max(compute, preparing) if plan.data.workers else compute + preparing
    evaluated = amounts.evaluation_examples * amounts.evaluations + amounts.final_examples
    evaluating = rehearsal.evaluation_seconds * evaluated
    return Hours(
        steps=step * amounts.steps / 3600,
        evaluations=evaluating / 3600,
        # A measurement that is one of the best is followed by one more.
        saves=rehearsal.save_seconds * (amounts.saves + amounts.evaluations) / 3600,
        step_seconds=step,
        waiting=(step - compute) / step,
    )


def _advice(
    plan: RunConfig,
    memory: MemoryPlan,
    disk: Disk,
    parts: Sequence[ModelPart],
    device: torch.device,
    *,
    is_too_small: bool,
) -> tuple[str, ...]:
    advice = []
    if disk.needed > disk.free:
        advice.append(f"free {(disk.needed - disk.free) / 1e9:.1f} GB of disk, or write elsewhere with --out")
    crowded = memory.room is not None and memory.needed > COMFORT * memory.room.free
    if crowded or is_too_small:
        advice += memory_advice(plan, device, trained=_share_trained(parts))
    return tuple(advice)


def _share_trained(parts: Sequence[ModelPart]) -> float:
    trained, frozen = sum(part.trained for part in parts), sum(part.frozen for part in parts)
    return trained / max(1, trained + frozen)


_MEGABYTES = 100_000_000  # below, sizes are told in MB


def format_plan(plan: TrainingPlan) -> str:
    """The plan as text, ending in what stands against the run."""
    blocks = [
        f"{plan.family} {plan.variant}, {plan.origin}; objective {plan.objective}; {plan.precision} on {plan.device}",
        _format_parts(plan),
        _format_groups(plan),
        _format_amounts(plan),
        _format_memory(plan.memory, plan.trouble),
        _format_disk(plan),
        _format_hours(plan),
        _format_comparison(plan),
    ]
    return "\n\n".join(filter(None, blocks))


def _format_parts(plan: TrainingPlan) -> str:
    rows = [["part", "trained", "frozen"]]
    rows += [[part.name, _format_count(part.trained), _format_count(part.frozen)] for part in plan.parts]
    total = [sum(part.trained for part in plan.parts), sum(part.frozen for part in plan.parts)]
    return aligned([*rows, ["all parameters", *map(_format_count, total)]])


def _format_groups(plan: TrainingPlan) -> str:
    rows = [["learning rate", "weight decay", "parameters", "of"]]
    rows += [
        [
            f"{group.lr:.2e}",
            f"{group.weight_decay:g}",
            _format_count(group.parameters),
            _format_some(group.parts),
        ]
        for group in plan.groups
    ]
    return aligned(rows)


def _format_amounts(plan: TrainingPlan) -> str:
    has = plan.amounts
    many = "drawn, new ones at every step" if has.examples is None else f"{has.examples} examples"
    epochs = "" if has.epochs is None else f", {has.epochs:.1f} epochs"
    factors = [f"batches of {has.batch_size}"]
    factors += [f"{has.accumulate} in a row"] if has.accumulate > 1 else []
    factors += [f"{has.processes} processes"] if has.processes > 1 else []
    warm = f", {has.warmup_steps} of them warm-up" if has.warmup_steps else ""
    measured = "no evaluation"
    if has.evaluations:
        measured = f"{_format_many(has.evaluations, 'evaluation')} of {_format_many(has.evaluation_examples, 'example')}"
    if has.final_examples:
        measured += f", and of {_format_many(has.final_examples, 'example')} for the model card"
    return (
        f"data {has.data}: {many}; {has.examples_per_step} a step ({' x '.join(factors)})\n"
        f"{has.steps} steps{warm}{epochs}, {plan.schedule} schedule; {measured}; {_format_many(has.saves, 'save')}"
    )


def _format_memory(memory: MemoryPlan, trouble: str | None) -> str:
    held = memory.held
    rows = [["memory", ""]]
    if memory.start:
        rows.append(["Python, torch, data index", format_size(memory.start)])
    rows += [["weights", format_size(held.weights)], ["gradients", format_size(held.gradients)]]
    rows += [["gradients, to exchange them", format_size(memory.buckets)]] if memory.buckets else []
    rows += [["optimizer state", format_size(held.optimizer)]]
    rows += [["averaged weights", format_size(held.average)]] if held.average else []
    if memory.activations is not None:
        rows.append(["activations and work space, measured", format_size(memory.activations)])
    rows += [["workers, beside what they share", format_size(memory.workers)]] if memory.workers else []
    rows.append(
        ["peak" if memory.peak is not None else "without activations", format_size(_sum_memory(memory))]
    )
    lines = [aligned(rows), _memory_verdict(memory)]
    if trouble is not None:
        lines.append(f"one step does not fit: {trouble}")
    return "\n".join(filter(None, lines))


def _sum_memory(memory: MemoryPlan) -> int:
    return memory.held.total + memory.buckets if memory.peak is None else memory.peak


def _memory_verdict(memory: MemoryPlan) -> str:
    room = memory.room
    if room is None:
        return "the system does not tell how much memory is free"
    limit = f" by its {room.limit}" if room.limit else ""
    has = f"{room.device} has {format_size(room.free)} free of {format_size(room.total)}{limit}"
    times = f" in {memory.processes} processes" if memory.processes > 1 else ""
    if memory.fits is False:
        return f"does NOT fit: {format_size(memory.needed)} are needed{times}, and {has}"
    if memory.peak is None:
        return has
    tight = ", which is tight" if memory.needed > COMFORT * room.free else ""
    return f"fits: {format_size(memory.needed)} are needed{times}, and {has}{tight}"


def _format_disk(plan: TrainingPlan) -> str:
    disk = plan.disk
    verdict = "enough" if disk.needed <= disk.free else "NOT enough"
    return (
        f"disk: {format_size(disk.files)} of state ({format_size(disk.state)}) and checkpoints ({format_size(disk.checkpoint)} each), "
        f"{format_size(disk.needed)} while one is replaced; {format_size(disk.free)} free, {verdict}"
    )


def _format_hours(plan: TrainingPlan) -> str:
    hours, tried = plan.hours, plan.rehearsal
    if hours is None or tried is None:
        return "time: not measured" if plan.trouble is None else ""
    parts = [f"steps {format_duration(hours.steps)}"]
    parts += [f"evaluations {format_duration(hours.evaluations)}"] if hours.evaluations else []
    parts += [f"saves {format_duration(hours.saves)}"]
    return (
        f"time: about {format_duration(hours.total)} ({', '.join(parts)}); {hours.step_seconds:.3f} s a step, "
        f"{_format_waiting(hours)}, measured over {tried.steps} steps"
    )


def _format_waiting(hours: Hours) -> str:
    return f"{hours.waiting:.0%} of it waiting for data"


def _format_comparison(plan: TrainingPlan) -> str:
    lines = [f"note: {doubt}" for doubt in plan.doubts]
    lines += [f"try: {advice}" for advice in plan.advice]
    return "\n".join(lines)


def format_duration(hours: float) -> str:
    """Hours as people say them: 35s, 12m, 3h05m, 2d04h."""
    seconds = round(3600 * hours)
    if seconds < 90:
        return f"{seconds}s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes}m"
    whole, rest = divmod(minutes, 60)
    return f"{whole}h{rest:02d}m" if whole < 48 else f"{whole // 24}d{whole % 24:02d}h"


def _format_count(number: int) -> str:
    if number == 0:
        return "-"
    return f"{number / 1e6:.2f} M" if number >= 10_000 else str(number)


def format_size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.2f} GB" if count >= _MEGABYTES else f"{count / 1e6:.1f} MB"


def _format_many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _format_some(names: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
