"""Data parallel training: one process, DDP or FSDP behind one Engine, and weights that are sharded over processes.

Accelerate wraps the step for many processes (DDP, or FSDP2 where the recipe shards); this file alone knows it. Which
examples a process sees, the precision of the forward pass and the scaling of losses stay with refseg, so that one process
computes what it always did.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from refseg import distributed
from refseg.distributed import RemoteTensor, from_first
from refseg.errors import InvalidInput
from refseg.models.base import Objective, ReferringModel
from refseg.structures import Batch
from refseg.training.schema import RunConfig


def is_shard(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; all of a plain tensor."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def gather_whole(value: Any, *, is_kept: bool = True) -> Any:
    """Nested dicts and lists with dealt out tensors put together on the CPU; all processes ask for it together.

    Arguments:
        is_kept: whether this process wants them; one that does not gets nothing for memory's sake.
    """
    if isinstance(value, Tensor):
        if not is_shard(value):
            return value
        full = value.full_tensor()  # type: ignore[attr-defined]
        return full.cpu() if is_kept else None
    if isinstance(value, Mapping):
        return {key: gather_whole(item, is_kept=is_kept) for key, item in value.items()}
    if isinstance(value, list):
        return [gather_whole(item, is_kept=is_kept) for item in value]
    return value


def distribute(full: Tensor, like: Tensor) -> Tensor:
    """`full` dealt out as `like` is; itself where `like` is plain."""
    if not is_shard(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    on_device = full.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements)  # type: ignore[attr-defined]


@torch.no_grad()
def fill(own: Mapping[str, Tensor], given: Mapping[str, Tensor | RemoteTensor]) -> None:
    """Copies whole tensors, which the first process holds, into those of equal name.

    Raises:
        KeyError: if the names differ, which a state of the same run cannot.
    """
    if own.keys() != given.keys():
        raise KeyError(
            f"the state names other weights than the model: {sorted(own.keys() ^ given.keys())[:4]}"
        )
    for name, tensor in given.items():
        own[name].copy_(distribute(from_first(tensor), own[name]))


def fill_optimizer(optimizer: torch.optim.Optimizer, given: Mapping[str, Any]) -> None:
    """Gives the optimizer a state whose whole tensors the first process holds."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, values in given["state"].items():
        state[number] = {name: _like_parameter(value, parameters[number]) for name, value in values.items()}
    optimizer.load_state_dict({"state": state, "param_groups": given["param_groups"]})


def _like_parameter(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor | RemoteTensor):
        return value
    full = from_first(value)
    return distribute(full, parameter) if full.shape == parameter.shape else full


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
    with _keep_environment():
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
def _keep_environment() -> Iterator[None]:
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
