"""What carries a training step: one process by itself, or several through accelerate, which this file alone knows.

Accelerate wraps the step for many processes (DDP, or FSDP2 where the recipe shards). Which examples a process sees, the
precision of the forward pass and the scaling of losses stay with refseg, so that one process computes what it always did.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.models.base import Objective, ReferringModel
from refseg.structures import Batch
from refseg.training.config import RunConfig
from refseg.training.shards import is_shard

_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp8": "fp8"}  # accelerate's words for run.precision


class TrainedStep(nn.Module):
    """The forward half of a step: a batch to named, weighted terms. What wraps a step wraps this."""

    def __init__(self, model: ReferringModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of one batch of this process."""
        return self.objective(self.model, batch)


class Engine:
    """A trained step, ready to be called, and the optimizer that moves its weights."""

    def __init__(
        self, step: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Any | None = None
    ) -> None:
        self.step, self.optimizer, self._accelerator = step, optimizer, accelerator

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights."""
        return self._accelerator is not None and self._accelerator.is_fsdp2

    def adding(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Within, a backward pass adds gradients; only that of a step's last batch brings processes together."""
        if is_last or self._accelerator is None:
            return nullcontext()
        alone: AbstractContextManager[None] = self._accelerator.no_sync(self.step)
        return alone

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        """The norm of the whole gradient, over all processes' parts; gradients are scaled down to `most`, if that is not 0."""
        moved = [parameter for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(moved, most or float("inf"))
        # It stays on its device, where the terms of the loss are.
        full: Tensor = norm.full_tensor() if is_shard(norm) else norm  # type: ignore[attr-defined]
        return full

    def shard_alike(self, model: nn.Module) -> None:
        """Deals out the weights of a copy of the model as those of the model are."""
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        fsdp2_prepare_model(self._accelerator, model)


def must_agree(run: RunConfig) -> None:
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
    _must_not_be_asked()
    for key in ("compile", "channels_last"):
        if is_sharded(run) and getattr(run.run, key):
            raise InvalidInput(
                f'run.{key} = true does not go with run.sharding = "full" on several processes; set one of them back'
            )


def _must_not_be_asked() -> None:
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


def build_engine(
    model: ReferringModel,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    run: RunConfig,
    device: torch.device,
) -> Engine:
    """The engine for the processes that there are; the model's weights are those of the first process on all of them.

    Raises:
        InvalidInput: if several processes train together and accelerate is not installed.
    """
    step = TrainedStep(model, objective)
    if distributed.world_size() == 1:
        return Engine(step, optimizer)
    with _environment_kept():
        accelerator = _accelerator(model, run, device)
    if not accelerator.is_fsdp2:
        return Engine(accelerator.prepare_model(step), optimizer, accelerator)
    prepared, moved = accelerator.prepare(step, optimizer)
    return Engine(prepared, moved.optimizer, accelerator)


def is_sharded(run: RunConfig) -> bool:
    """Whether weights are dealt out over processes; one process holds them all."""
    return run.run.sharding == "full" and distributed.world_size() > 1


def _accelerator(model: ReferringModel, run: RunConfig, device: torch.device) -> Any:
    """Accelerate over the processes that have already joined."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise InvalidInput(
            "several processes train together through accelerate, which is not installed; install it with "
            "pip install 'refseg[train]', or start one process"
        ) from error
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in these processes
    # A family may leave parameters out of a step. Statistics of batch norms stay with their process, or are shared by
    # the norms themselves.
    ways = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    # Torch deprecates the second one, which accelerate still calls by its old name.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # Torch warns of blocks that return views, which no family changes in place while it learns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    plugin = _sharding(model) if is_sharded(run) else None
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        dynamo_backend="no",
        device_placement=False,
        kwargs_handlers=[ways],
        fsdp_plugin=plugin,
    )
    if plugin is not None and device.type == "cpu":
        _shard_on_cpus(accelerator, plugin)
    return accelerator


def _sharding(model: ReferringModel) -> Any:
    """FSDP2 with the model's blocks as units; what is in none of them is one unit more."""
    from accelerate import FullyShardedDataParallelPlugin

    kinds = sorted({type(block).__name__ for block in model.recomputed_blocks()})
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap" if kinds else "no_wrap",
        transformer_cls_names_to_wrap=kinds or None,
        cpu_ram_efficient_loading=False,
    )


def _shard_on_cpus(accelerator: Any, plugin: Any) -> None:
    # Accelerate turns to FSDP on GPUs alone, though torch shards on CPUs as well; there the choice is made for it.
    from accelerate import DistributedType, PartialState

    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Accelerate notes its settings in the environment, where a later run would take them for the launcher's."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in set(os.environ) - set(before):
            del os.environ[key]
        os.environ.update(before)


def _is_asked(key: str) -> bool:
    return os.environ.get(key, "false").lower() in ("true", "1", "yes")
