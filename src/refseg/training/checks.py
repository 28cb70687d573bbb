"""What cannot be trained as asked is refused before anything is read, fetched or written; what is doubtful is said."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Iterator

import torch
from torch import nn

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.base import ReferringModel
from refseg.training.objective import check_objective
from refseg.training.parallel import _PRECISIONS, _is_asked, is_sharded
from refseg.training.resources import local_processes, memory_on, training_bytes, usable_cores
from refseg.training.schema import RunConfig, RunSection
from refseg.training.validation import check_score

_MOSTLY = 0.5  # trained parameters, as a share of all, from which on training fewer saves much


_SEE_FRAMES_ALONE = frozenset({"vlt", "lgformer", "vpd"})  # a clip is so many pictures to them


def check_possible(run: RunConfig, device: torch.device) -> None:
    """Refuses a run that asks for what its device, its family or its other keys rule out.

    What its launcher asks for against the recipe is among it.

    Raises:
        UnknownName: if there is no such family, variant or objective.
        InvalidInput: the first thing that is impossible, and what to write instead.
    """
    catalog.variant(run.family, run.variant)
    family = catalog.family(run.family)
    check_objective(family, run)
    for sentence in _impossible(run, device):
        raise InvalidInput(sentence)
    if run.objective.startswith("phrases") and run.run.evaluate_examples != 0:
        check_score(run.run.best_by)
    check_launcher(run)


def _impossible(run: RunConfig, device: torch.device) -> Iterator[str]:
    if run.run.precision == "bfloat16" and _lacks_bfloat16(device):
        yield (
            f"run.precision is bfloat16, which {torch.cuda.get_device_name(device)} does not compute in; set "
            "run.precision=float16, or float32"
        )
    if run.run.checkpoint_activations and not names_blocks(run.family):
        yield (
            f"run.checkpoint_activations is true, and {run.family} names no blocks that can be computed again; set it to "
            "false"
        )

    if run.run.compile and (lacks := _missing_for_compiling(device)):
        yield f"run.compile is true, and torch.compile needs {lacks} on {device.type}, which is not here; install it, or set run.compile=false"


def _missing_for_compiling(device: torch.device) -> str:
    """What torch.compile would ask for after the first batch was read; empty where all is here."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton"
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "cl")
    return "" if any(shutil.which(name) for name in compilers if name) else "a C++ compiler"


def find_doubts(plan: RunConfig, device: torch.device) -> list[str]:
    """What a run whose lengths are in steps may do, and probably should not; a sentence each."""
    return [*_doubts_of_lengths(plan), *_doubts_of_device(plan, device), *_doubts_of_data(plan)]


def _doubts_of_lengths(plan: RunConfig) -> Iterator[str]:
    section, schedule = plan.run, plan.schedule
    steps = as_steps(section.steps)
    if as_steps(section.evaluate_every) > steps:
        yield f"run.evaluate_every {section.evaluate_every} is beyond the {steps} steps; the run is measured at its end only"
    usual = RunSection.model_fields["save_every"].default
    if as_steps(section.save_every) > steps >= usual:  # a shorter run loses little when it is killed
        yield f"run.save_every {section.save_every} is beyond the {steps} steps; the run is saved at its end only"
    late = [drop for drop in schedule.drops if isinstance(drop, int) and drop >= steps]
    if schedule.kind == "step" and late:
        yield f"schedule.drops {', '.join(map(str, late))} lie beyond the {steps} steps and never come"
    if schedule.kind == "step" and not schedule.drops:
        yield "schedule.kind is step and schedule.drops is empty; the rate stays as it is"
    if schedule.kind != "step" and schedule.drops:
        yield f"schedule.drops are for kind step and do nothing in a {schedule.kind} schedule"


def _doubts_of_device(plan: RunConfig, device: torch.device) -> Iterator[str]:
    if plan.run.precision == "float16" and device.type == "cpu":
        yield "run.precision is float16, which CPUs compute slowly; bfloat16 or float32 is faster on this device"
    if plan.run.sharding == "full" and distributed.world_size() == 1:
        yield "run.sharding is full, and one process holds all weights; start several with torchrun to deal them out"
    cores = usable_cores()
    if plan.data.workers > cores:
        yield f"data.workers is {plan.data.workers}, and this process may use {cores} cores; more workers than cores wait for each other"


def _doubts_of_data(plan: RunConfig) -> Iterator[str]:
    frames = max([plan.data.frames, *(one.sample.frames for one in plan.data.each if one.sample is not None)])
    if frames > 1 and plan.family in _SEE_FRAMES_ALONE:
        yield (
            f"{plan.family} sees every frame by itself: clips of {frames} frames cost as much as {frames} pictures and teach "
            "nothing of motion"
        )


def check_memory(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: RunConfig, device: torch.device
) -> None:
    """Refuses a run whose gradients and optimizer state alone are larger than what memory is left beside its weights.

    Raises:
        InvalidInput: with what is needed, what there is, and what makes it smaller.
    """
    room = memory_on(device)
    if room is None:
        return
    held = training_bytes(model, optimizer, is_averaged=False).on_each(shards_of(plan))
    coming = (held.gradients + held.optimizer) * (local_processes() if device.type == "cpu" else 1)
    if coming <= room.free:
        return
    advice = "; ".join(memory_advice(plan, device))
    raise InvalidInput(
        f"gradients and the optimizer's state of this run take {coming / 1e9:.1f} GB before any activation, and {room.device} "
        f"has {room.free / 1e9:.1f} GB free{f' in its {room.limit}' if room.limit else ''}; --anyway tries all the same, or: {advice}"
    )


def memory_advice(plan: RunConfig, device: torch.device, *, trained: float = 1.0) -> list[str]:
    """What makes a run smaller, the least harmful first.

    Arguments:
        trained: the share of the parameters that is trained.
    """
    section, advice = plan.run, []
    if not section.checkpoint_activations and names_blocks(plan.family):
        advice.append(
            "run.checkpoint_activations=true keeps fewer activations and costs about a third more time"
        )
    if section.batch_size > 1:
        half = section.batch_size // 2
        advice.append(
            f"run.batch_size={half} optimizer.accumulate={plan.optimizer.accumulate * math.ceil(section.batch_size / half)} makes the "
            "same steps of smaller batches"
        )
    if section.precision == "float32" and device.type == "cuda":
        advice.append("run.precision=bfloat16 halves most activations")
    if plan.run.sharding == "none" and distributed.world_size() > 1:
        advice.append(
            f"run.sharding=full deals weights, gradients and optimizer state out over the {distributed.world_size()} processes"
        )
    if trained > _MOSTLY:
        advice.append(
            "fewer trained parameters need fewer gradients and less optimizer state: low-rank adapters, or optimizer.rules "
            "that freeze a part"
        )
    if section.ema:
        advice.append("run.ema=0.0 keeps no second copy of the weights")
    return advice


def shards_of(plan: RunConfig) -> int:
    """Over how many processes the weights are dealt out; 1 = each holds all."""
    return distributed.world_size() if is_sharded(plan) else 1


def names_blocks(family: str) -> bool:
    """Whether models of a family can compute activations again."""
    return catalog.family(family).model.recomputed_blocks is not ReferringModel.recomputed_blocks


def as_steps(length: int | str) -> int:
    """A length of a run whose lengths are in steps."""
    assert isinstance(length, int), "lengths in epochs are resolved before a run begins"
    return length


def _lacks_bfloat16(device: torch.device) -> bool:
    # Emulated bfloat16 is slower than float32, and memory is all that it would save.
    return device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)


def check_launcher(run: RunConfig) -> None:
    """Refuses what `accelerate launch` asks for and the recipe does not: the recipe alone says what is computed.

    Keys that do not go together on several processes are refused too.

    Raises:
        InvalidInput: naming both.
    """
    asked = os.environ.get
    precision = asked("ACCELERATE_MIXED_PRECISION", "no")
    if _PRECISIONS.get(precision, run.run.precision) != run.run.precision:
        raise InvalidInput(
            f'accelerate launch asks for {precision}, the recipe for run.precision = "{run.run.precision}"; change one of them'
        )
    if _is_asked("ACCELERATE_USE_FSDP") and run.run.sharding == "none":
        raise InvalidInput(
            'accelerate launch asks for FSDP, the recipe for run.sharding = "none"; add run.sharding=full, or leave out --use_fsdp'
        )
    if asked("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO" and not run.run.compile:
        raise InvalidInput(
            "accelerate launch asks for torch.compile, the recipe does not; add run.compile=true, or leave out --dynamo_backend"
        )
    steps = int(asked("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    if steps not in (1, run.optimizer.accumulate):
        raise InvalidInput(
            f"accelerate launch asks for {steps} batches a step, the recipe for optimizer.accumulate = "
            f"{run.optimizer.accumulate}; change one of them"
        )
    _check_no_environment()
    for key in ("compile", "channels_last"):
        if is_sharded(run) and getattr(run.run, key):
            raise InvalidInput(
                f'run.{key} = true does not go with run.sharding = "full" on several processes; set one of them back'
            )


def _check_no_environment() -> None:
    """Refuses what accelerate can do and refseg does not."""
    if _is_asked("FSDP_OFFLOAD_PARAMS") and _is_asked("ACCELERATE_USE_FSDP"):
        raise InvalidInput(
            "accelerate launch asks for weights that wait on the CPU, and refseg keeps their parts on the device; leave out "
            "--fsdp_offload_params"
        )
    if _is_asked("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        # It names a meeting place where several processes are asked for, and then starts one.
        raise InvalidInput(
            "accelerate launch --cpu starts one process, whatever --num_processes says; give --multi_gpu in place of --cpu, or "
            "start them by torchrun"
        )
    for other, name in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if _is_asked(f"ACCELERATE_USE_{other}"):
            raise InvalidInput(
                f'accelerate launch asks for {name}, which refseg does not use; shard by run.sharding = "full" instead'
            )
