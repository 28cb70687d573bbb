"""Our own checkpoint file: safetensors whose header says, as JSON, what the weights are and how to build their model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from refseg.checkpoints.configs import from_plain, to_plain
from refseg.checkpoints.memory_map import release
from refseg.checkpoints.tensor_file import as_bytes, entries_of, read_into, read_one, write_one_by_one
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.files import durable_file, reason
from refseg.models import catalog
from refseg.models.base import ReferringModel
from refseg.version import __version__

FORMAT = 1
"""The version of the file's layout; a reader refuses a higher one."""

_DRAWING = frozenset(
    f"{way}{kind}_" for way in ("", "kaiming_", "xavier_", "trunc_") for kind in ("uniform", "normal")
)  # ways of giving first values, as functions of torch.nn.init and as methods of tensors

_ADAPTERS = "refseg_adapters"  # the entry of a file that is laid over a checkpoint
_KEY = "refseg"  # the entry of the safetensors metadata that holds our JSON


@dataclass(frozen=True)
class Header:
    """What a checkpoint file says of itself."""

    family: str
    variant: str
    config: dict[str, Any]  # the model's configuration as plain data
    origin: dict[
        str, str
    ]  # where the weights come from: file, sha256, repository, or the recipe that trained them
    extra: dict[str, str]  # texts that prediction needs beside the weights, such as a tokenizer's file
    version: str  # of the refseg that wrote the file
    sha256: str  # of the tensors: names, types, shapes and values


class Stored(Protocol):
    """What a file keeps of a model."""

    config: Any

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights by name."""

    def extra_state(self) -> dict[str, str]:
        """Texts that prediction needs beside them."""


def save(
    path: Path,
    model: Stored | ReferringModel,
    *,
    family: str,
    variant: str,
    origin: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> Header:
    """Writes `model` to `path`, whole or not at all, and returns the header it wrote.

    With `dtype`, floating tensors are stored in that type (float16 halves the file); loading restores float32.

    Raises:
        InvalidInput: if the file cannot be written (no such folder, no room, no permission).
    """
    return save_tensors(
        path, model.state_dict(), model, family=family, variant=variant, origin=origin, dtype=dtype
    )


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    model: Stored | ReferringModel,
    *,
    family: str,
    variant: str,
    origin: Mapping[str, str],
    dtype: torch.dtype | None = None,
    are_files: bool = False,
) -> Header:
    """As `save`, with values from `tensors`; of `model`, which may be on the device meta, come types, configuration and texts.

    Tensors are cast and written one by one, so memory holds no second copy of them. With `are_files` they may be mapped
    files that nobody has written to: then memory does not even hold all of the first.
    """
    like = _as_stored(model.state_dict(), dtype)
    given = _OneAtATime(tensors, like, are_files=are_files)
    sources = {name: partial(given, name) for name in like}
    config, extra = to_plain(model.config), model.extra_state()
    digest = _sha256({name: (like[name], sources[name]) for name in like})
    header = Header(family, variant, config, dict(origin), dict(extra), __version__, digest)
    text = json.dumps({"format": FORMAT, **asdict(header)})
    with written_whole(path) as part:
        write_one_by_one(part, sources, like, text={"format": "pt", _KEY: text})
    return header


def load(
    path: Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[ReferringModel, Header]:
    """The model of a checkpoint file, in float32 and eval mode on `device`, and the file's header.

    A model that computes in the type of its weights (`casts_weights`) has them in `dtype` from the start. Tensors are
    read one by one: memory holds the model and one of them.

    Raises:
        InvalidInput: if the file is absent, cut short, or not a refseg checkpoint.
        UnknownName: if its family does not exist here.
        CheckpointMismatch: if its configuration or weights do not fit this version's model.
    """
    header = read_header(path)
    model = blank(header.family, config_of(header))
    if dtype is not None and model.casts_weights:
        model.to(dtype)
    wanted = model.state_dict()
    held = {name: entry.like() for name, entry in entries_of(path).items()}
    wrong = difference(wanted, held, source=path.name)
    if wrong is not None:
        raise wrong
    read_into(path, wanted)
    model.load_extra_state(header.extra)
    return model.to(device).eval(), header


def read_header(path: Path) -> Header:
    """What the checkpoint file says of itself; the file's size is checked, its weights are not read.

    Raises:
        InvalidInput: if the file is absent, cut short, or not a refseg checkpoint.
    """
    metadata = _metadata(path)
    text = metadata.get(_KEY)
    if _ADAPTERS in metadata:
        raise InvalidInput(
            f"{path} holds adapters alone; lay them over their checkpoint with: refseg merge {path}"
        )
    if text is None:
        raise InvalidInput(
            f"{path} is a safetensors file, but not written by refseg; bring it over with: refseg convert {path} --family F --variant V"
        )
    data = json.loads(text)
    written = data.pop("format", None)
    if not isinstance(written, int) or written > FORMAT:
        raise InvalidInput(
            f"{path} has layout {written}, written by refseg {data.get('version')}; this refseg {__version__} "
            f"reads up to {FORMAT}: upgrade refseg"
        )
    names = {field.name for field in fields(Header)}
    if set(data) != names:
        raise InvalidInput(f"the header of {path} is damaged: fields {sorted(set(data) ^ names)} are wrong")
    return Header(**data)


def verify(path: Path) -> Header:
    """The header of a file whose weights were read and found to have the sha256 it names.

    Raises:
        InvalidInput: if they differ, or the file is not a whole checkpoint.
    """
    header = read_header(path)
    found = _sha256(
        {name: (entry.like(), partial(read_one, path, entry)) for name, entry in entries_of(path).items()}
    )
    if found != header.sha256:
        raise InvalidInput(
            f"the weights in {path} are damaged: their sha256 is {found}, the header says {header.sha256}; get the file again"
        )
    return header


def config_of(header: Header) -> Any:
    """The configuration a header describes, as its family's own type."""
    variants = catalog.family(header.family).variants
    like = variants.get(header.variant) or next(iter(variants.values()))
    return from_plain(type(like), header.config, version=header.version)


def blank(family: str, config: Any) -> ReferringModel:
    """A model of `config` whose values wait to be loaded; torch's global generator stays where it was."""
    with torch.random.fork_rng(devices=[]), _WithoutFirstValues():
        return catalog.build(family, config)


class _WithoutFirstValues(TorchFunctionMode):
    """Random first values of parameters are not drawn: they would be overwritten, and big models take seconds over them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        target = args[0] if args else named.get("tensor")
        draws = getattr(func, "__name__", "") in _DRAWING
        return target if draws and isinstance(target, nn.Parameter) else func(*args, **named)


def load_strictly(
    model: ReferringModel, state: Mapping[str, Tensor], *, source: str, left: Sequence[str] = ()
) -> None:
    """Puts `state` into `model`: every name and every shape, or nothing; `left` are names of the source not in `state`.

    Raises:
        CheckpointMismatch: with the names left on either side, or the first shapes that differ.
    """
    wrong = difference(model.state_dict(), state, source=source, left=left)
    if wrong is not None:
        raise wrong
    model.load_state_dict(dict(state), strict=True)


def difference(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str, left: Sequence[str] = ()
) -> CheckpointMismatch | None:
    """Why `state` (and the names `left` over) are not the tensors `wanted`; None if they are."""
    missing, unexpected = sorted(set(wanted) - set(state)), [*left, *sorted(set(state) - set(wanted))]
    if missing or unexpected:
        return CheckpointMismatch(f"{source} does not fit the model", missing=missing, unexpected=unexpected)
    wrong = [
        f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if tensor.shape != state[name].shape
    ]
    if not wrong:
        return None
    more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
    return CheckpointMismatch(f"{source} does not fit the model: {', '.join(wrong[:3])}{more}")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors by name: independent of their order and of the file's layout."""
    return _sha256({name: (tensor, partial(_cast, tensor, tensor.dtype)) for name, tensor in tensors.items()})


def _sha256(tensors: Mapping[str, tuple[Tensor, Callable[[], Tensor]]]) -> str:
    """As `tensors_sha256`, of what each name is like and where its values come from, one at a time."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        like, source = tensors[name]
        digest.update(f"{name} {like.dtype} {list(like.shape)}\n".encode())
        digest.update(as_bytes(source()))
    return digest.hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file appears as `path` when all of it is on the disk.

    Raises:
        InvalidInput: if the system refuses to write (no room, no permission).
    """
    try:
        with durable_file(path) as part:
            part.touch()
            mode = (
                part.stat().st_mode
            )  # what the person's umask gives; a library may write with a stricter one
            yield part
            part.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"cannot write {path}: {reason(error)}") from error


def _as_stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What each tensor is like in the file: shape and type, without values."""
    kinds = {
        name: dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        for name, tensor in state.items()
    }
    return {
        name: torch.empty(tensor.shape, dtype=kinds[name], device="meta") for name, tensor in state.items()
    }


class _OneAtATime:
    """Tensors in the types of a file; memory of a mapped one is given back when the next one is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], *, are_files: bool) -> None:
        self._tensors, self._like, self._are_files = tensors, like, are_files
        self._last: Tensor | None = None

    def __call__(self, name: str) -> Tensor:
        if self._are_files and self._last is not None:
            release(self._last)
        self._last = self._tensors[name]
        return _cast(self._last, self._like[name].dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype)


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InvalidInput(f"there is no checkpoint file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"{path} is cut short or not a refseg checkpoint ({error}); get or convert it again"
        ) from error
