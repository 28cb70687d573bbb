"""LoRA files: what a run with adapters learnt, alone in a small file, and how it is merged into its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refseg.checkpoints import native, zoo
from refseg.checkpoints.configs import from_plain, to_plain
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.base import ReferringModel
from refseg.training.lora import adapters, base_name, is_adapter
from refseg.training.run_folder import ADAPTERS_NAME
from refseg.training.schema import RunConfig
from refseg.version import __version__

if TYPE_CHECKING:
    from refseg.training.state import TrainState


FORMAT = 1


_KEY = "refseg_adapters"  # the entry of the safetensors metadata that holds our JSON


@dataclass(frozen=True)
class AdapterHeader:
    """What a file of adapters says of itself."""

    family: str
    variant: str
    config: dict[str, Any]  # of the model with the adapters in it
    origin: dict[str, str]
    extra: dict[str, str]  # as in a checkpoint's header
    version: str  # of the refseg that wrote the file
    base: dict[str, str]  # name and sha256 of the weights that the adapters belong to
    scales: dict[str, float]  # by the name of the weight: what its product is multiplied by


def save_adapters(
    path: Path, model: ReferringModel, training: TrainState, run: RunConfig, origin: Mapping[str, str]
) -> None:
    """Writes the adapters of `model`, the weights that `training` trains as a whole, and the buffers, in float32.

    Raises:
        InvalidInput: if the file cannot be written.
    """
    learnt = {name for name, weight in training.model.named_parameters() if weight.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if is_adapter(name):
            tensors[f"{base_name(name)}.{name.rpartition('.')[2]}"] = _plain(tensor)
        elif name in learnt or name in buffers:
            tensors[name] = _plain(tensor)
    header = AdapterHeader(
        run.family,
        run.variant,
        to_plain(model.config),
        dict(origin),
        dict(model.extra_state()),
        __version__,
        dict(training.kept.base),
        {name: adapter.scale for name, adapter in adapters(model)},
    )
    text = json.dumps({"format": FORMAT, **asdict(header)})
    with native.written_whole(path) as part:
        save_file(tensors, part, metadata={"format": "pt", _KEY: text})


def read_adapter_header(path: Path) -> AdapterHeader:
    """What a file of adapters says of itself.

    Raises:
        InvalidInput: if it is absent, cut short, or holds no adapters of ours.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no file of adapters {path}; a run with adapters leaves {ADAPTERS_NAME}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"{path} is cut short or no file of adapters ({error}); get it again") from error
    if text is None:
        raise InvalidInput(
            f"{path} holds no adapters; a run with adapters leaves {ADAPTERS_NAME} beside its checkpoints"
        )
    data = json.loads(text)
    written = data.pop("format", None)
    if written != FORMAT or set(data) != {field.name for field in fields(AdapterHeader)}:
        raise InvalidInput(
            f"{path} has layout {written} of refseg {data.get('version')}; this refseg {__version__} reads {FORMAT}"
        )
    return AdapterHeader(**data)


def merge(
    path: Path, out: Path, *, base: str | None = None, dtype: torch.dtype | None = None
) -> native.Header:
    """Writes the checkpoint that comes of laying the adapters in `path` over the one that they were trained on.

    Arguments:
        base: that checkpoint's name or file, where it is no longer where the run found it.

    Raises:
        InvalidInput: if a file cannot be read, or the base has other weights than the run began with.
    """
    header = read_adapter_header(path)
    name = base or header.base["name"]
    found = zoo.resolve(name)
    given = native.read_header(found).sha256
    if given != header.base["sha256"]:
        raise InvalidInput(
            f"the adapters in {path} were trained on {header.base['name']} with weights of sha256 {header.base['sha256'][:12]}, and "
            f"those of {found} have {given[:12]}; name the right checkpoint with --base"
        )
    tensors = merge_weights(native.load(found)[0].state_dict(), path, header.scales)
    variants = catalog.family(header.family).variants
    config = from_plain(type(next(iter(variants.values()))), header.config, version=header.version)
    with torch.device("meta"):
        model = catalog.build(header.family, config)
    model.load_extra_state(header.extra)
    wrong = native.difference(model.state_dict(), tensors, source=path.name)
    if wrong is not None:
        raise wrong
    return native.save_tensors(
        out,
        tensors,
        model,
        family=header.family,
        variant=header.variant,
        origin={**header.origin, "adapters": path.name},
        dtype=dtype,
    )


def merge_weights(
    weights: Mapping[str, Tensor], path: Path, scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Weights with what the file of adapters changes and replaces."""
    result = dict(weights)
    with safe_open(path, framework="pt") as file:
        parts = {f"{name}.{part}" for name in scales for part in ("up", "down")}
        for name in set(file.keys()) - parts:
            result[name] = file.get_tensor(name)
        for name, scale in scales.items():
            change = (file.get_tensor(f"{name}.up") @ file.get_tensor(f"{name}.down")) * scale
            result[name] = result[name] + change.view_as(result[name])
    return result


def _plain(tensor: Tensor) -> Tensor:
    plain = tensor.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain).contiguous()
