"""What a launcher and a device are asked, held against the recipe before anything is built."""

from __future__ import annotations

import os

import torch

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.training.compiling import must_compile
from refseg.training.config import RunConfig

_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp8": "fp8"}  # accelerate's words for run.precision


def must_be_possible(run: RunConfig, device: torch.device) -> None:
    """Refuses keys of a recipe that do not go together here, and what a launcher asks for against the recipe.

    Raises:
        InvalidInput: naming both sides.
    """
    must_agree(run)
    if run.run.compile:
        must_compile(device)
    if distributed.world_size() > 1 and run.run.sharding == "full":
        for key in ("compile", "channels_last"):
            if getattr(run.run, key):
                raise InvalidInput(
                    f'run.{key} = true does not go with run.sharding = "full" on several processes; set one of them back'
                )


def must_agree(run: RunConfig) -> None:
    """Refuses what `accelerate launch` asks for and the recipe does not: the recipe alone says what is computed.

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
    if _is_asked("FSDP_OFFLOAD_PARAMS") and _is_asked("ACCELERATE_USE_FSDP"):
        raise InvalidInput(
            "accelerate launch asks for weights that wait on the CPU, and refseg keeps their parts on the device; leave out "
            "--fsdp_offload_params"
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
    for other, name in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if _is_asked(f"ACCELERATE_USE_{other}"):
            raise InvalidInput(
                f'accelerate launch asks for {name}, which refseg does not use; shard by run.sharding = "full" instead'
            )


def _is_asked(key: str) -> bool:
    return os.environ.get(key, "false").lower() in ("true", "1", "yes")
