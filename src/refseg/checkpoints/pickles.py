"""Pickles read without running them: tensors and plain containers come out, everything else becomes an inert stand-in.

A pickle is a program that may call any function it names. Here no name leads to the thing named: the few that build
tensors and containers lead to our own builders below, those that no checkpoint has a use for are refused, and every
other (an argparse Namespace, a configuration object, a scheduler's counter) leads to a class that swallows what it is given.
"""

from __future__ import annotations

import builtins
import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from refseg.errors import InvalidInput

# Modules that start programs, open files or load code, and builtins that are functions: naming one is an attack.
_HOSTILE_MODULES = frozenset(
    [
        "_io",
        "_posixsubprocess",
        "_thread",
        "asyncio",
        "cloudpickle",
        "code",
        "codeop",
        "commands",
        "ctypes",
        "dill",
        "ftplib",
        "http",
        "httplib",
        "imp",
        "importlib",
        "io",
        "joblib",
        "marshal",
        "mmap",
        "multiprocessing",
        "nt",
        "os",
        "pdb",
        "pickle",
        "_pickle",
        "pip",
        "posix",
        "pty",
        "pydoc",
        "requests",
        "runpy",
        "shutil",
        "socket",
        "sqlite3",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "timeit",
        "urllib",
        "urllib2",
        "webbrowser",
    ]
)
_PLAIN_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, slice, str, tuple)
} | {"unicode": str, "long": int, "xrange": range, "range": range}


class _Inert:
    """The stand-in for anything unknown: takes arguments, items and state, and does nothing with them."""

    dump_patches = False  # asked for by torch when an old file carries the source of a module

    def __new__(cls, *_values: Any, **_named: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_values: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __call__(self, *_values: Any, **_named: Any) -> Any:
        return self

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0

    def append(self, _value: Any) -> None:
        """Swallows an item of a list."""

    def extend(self, _values: Any) -> None:
        """Swallows items of a list."""

    def add(self, _value: Any) -> None:
        """Swallows an item of a set."""


class _Builder:
    """A function of ours that a pickle may call; its attributes cannot be changed from within the file."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __setstate__(self, _state: Any) -> None:
        raise pickle.UnpicklingError("the file changes what it should only call")

    def __call__(self, *values: Any) -> Any:
        return self._build(*values)


class _DType:
    """A NumPy type as a pickle spells it: its code, then in its state the byte order."""

    def __init__(self, code: Any = "", *_flags: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else str(state[1])
        self.code = (order if order in "<>" else "") + self.code.lstrip("<>|=")


class Array:
    """A NumPy array as a pickle spells it; `tensor` makes a real one of it, for numeric types only."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.kind, self.is_fortran, self.raw = "", False, b""

    def __setstate__(self, state: Any) -> None:
        shape, kind, is_fortran, raw = state[-4:]
        self.shape, self.is_fortran = tuple(map(int, shape)), bool(is_fortran)
        self.kind = kind.code if isinstance(kind, _DType) else ""
        self.raw = raw.encode("latin1") if isinstance(raw, str) else raw

    def tensor(self) -> Tensor | None:
        """The values as a tensor; None if they are not numbers."""
        if self.kind.lstrip("<>")[:1] not in tuple("biuf") or not isinstance(self.raw, bytes | bytearray):
            return None
        flat = np.frombuffer(bytearray(self.raw), dtype=np.dtype(self.kind))
        values = flat.reshape(self.shape, order="F" if self.is_fortran else "C")
        native = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))
        return torch.from_numpy(native).reshape(self.shape)  # a 0-d array comes back from NumPy with one axis


def _rebuilt(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_rest: Any) -> Tensor:
    """A tensor over a storage of the file; `_rest` holds gradients, hooks and flags."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage.size()):
        raise pickle.UnpicklingError("a tensor reaches beyond its data")
    tensor: Tensor = torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))
    return tensor


def _count_stored_bytes(data: bytes) -> Any:
    """A storage that was pickled by itself, as the bytes of a whole torch file."""
    return load_torch(io.BytesIO(data))


def _array_from_buffer(data: Any, kind: Any, shape: Any, order: str) -> Array:
    array = Array()
    array.__setstate__((shape, kind, order == "F", bytes(data)))
    return array


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """What protocols 0 and 1 do for objects: an empty one of its class, or a plain value."""
    if isinstance(kind, type) and issubclass(kind, _Inert):
        return kind()
    return base(state) if base in _PLAIN_TYPES.values() else _Inert()


def _count(*values: Any) -> dict[Any, Any]:
    return dict(values[0]) if values and isinstance(values[0], dict) else {}


_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda build, _kind, values, _state: build(*values),
    ("torch.nn.parameter", "Parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _count_stored_bytes,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    ("copyreg", "_reconstructor"): _reconstructed,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "Counter"): _count,
}


class RestrictedUnpickler(pickle._Unpickler):
    """An unpickler in which no name leads to foreign code.

    Of the two in the standard library the one in Python: the one in C reserves whatever memory a damaged file names.
    """

    def find_class(self, module: str, name: str) -> Any:
        """What stands for `module`.`name`: a builder, a plain type, or an inert class.

        Raises:
            InvalidInput: if no checkpoint needs that name, and an attack would.
        """
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key in _BUILDERS:
            return _Builder(_BUILDERS[key])
        if key == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "builtins" and name in _PLAIN_TYPES:
            return _PLAIN_TYPES[name]
        if module.split(".")[0] in _HOSTILE_MODULES or _is_function_of_builtins(module, name):
            raise InvalidInput(
                f"the file is a pickle that asks to run {module}.{name}, which no checkpoint needs; nothing was run: "
                "do not use this file, get the weights from their authors"
            )
        return type(name.rsplit(".", maxsplit=1)[-1], (_Inert,), {"__module__": f"stand_in_for.{module}"})


def _is_function_of_builtins(module: str, name: str) -> bool:
    found = getattr(builtins, name, None)
    is_exception = isinstance(found, type) and issubclass(found, BaseException)
    return module == "builtins" and name != "object" and not is_exception


class _PickleModule:
    """What `torch.load` takes as `pickle_module`."""

    Unpickler = RestrictedUnpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> Any:
        """One pickled value."""
        return RestrictedUnpickler(file, **options).load()


def load_torch(source: Path | BinaryIO, *, mapped: bool = False) -> Any:
    """What `torch.save` wrote, in its zip (`mapped`: by memory map) or legacy form, on the CPU."""
    module: Any = _PickleModule
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about typed storages and the sources of modules
        # `weights_only` must be off to bring an unpickler of our own, which is stricter in what it calls.
        return torch.load(source, "cpu", pickle_module=module, weights_only=False, mmap=mapped)


def load_pickle(source: BinaryIO) -> Any:
    """A plain pickle, as detectron2 writes; texts of Python 2 are read as latin-1."""
    return RestrictedUnpickler(source, encoding="latin1").load()
