"""Keras weight files (.h5): a group per layer, in the order of the model, and its tensors in the order of the layer.

Names are paths in the file with dots for slashes and without the ending `:0`; the order of the dict is the order of the file.
TensorFlow is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from refseg.models.base import StateDict

SIGNATURE = b"\x89HDF"
_SAVED_MODEL = "model_weights"  # the group that holds the layers in a file of a whole model


def read_keras(path: Path) -> StateDict:
    """The tensors of a Keras weight file, or of the weights in a saved Keras model.

    Raises:
        InvalidInput: if h5py is absent, the file holds no layers of Keras, or a part of it lies in another file.
    """
    try:
        import h5py
    except ImportError as error:
        raise InvalidInput(
            "reading .h5 files needs h5py; install it with: pip install 'refseg[vlt]'"
        ) from error
    except Exception as error:  # an h5py built for another numpy raises what it likes
        reason = " ".join(str(error).split())
        raise InvalidInput(
            f"h5py is installed but broken ({reason}); install it again: pip install --force-reinstall h5py"
        ) from error
    with h5py.File(path, "r") as file:
        root = file.get(_SAVED_MODEL, file)
        layers = _texts(root, "layer_names")
        if layers is None:
            raise InvalidInput("it is an HDF5 file without the layers of a Keras model")
        return {_name(where): _tensor(root, where) for layer in layers for where in _weights(root, layer)}


def _weights(root: Any, layer: str) -> Iterator[str]:
    """Where the tensors of a layer lie; nowhere, for a layer without weights."""
    if layer not in root:
        raise InvalidInput(f"the file names a layer {layer!r}, and holds none")
    for weight in _texts(root[layer], "weight_names") or []:
        yield f"{layer}/{weight}"


def _texts(group: Any, attribute: str) -> list[str] | None:
    """A list of texts that Keras keeps in an attribute, or, where it is long, in several numbered ones."""
    parts = [attribute] if attribute in group.attrs else []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        parts.append(f"{attribute}{number}")
        number += 1
    if not parts:
        return None
    values = [value for part in parts for value in np.asarray(group.attrs[part]).ravel().tolist()]
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]


def _tensor(root: Any, where: str) -> torch.Tensor:
    import h5py

    steps = where.split("/")
    for end in range(1, len(steps) + 1):
        kind = root.get("/".join(steps[:end]), getclass=True, getlink=True)
        if kind is not h5py.HardLink:
            raise InvalidInput(f"the tensor {where} is absent, or lies in another file")
    found = root[where]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise InvalidInput(f"{where} is no tensor of this file")
    return torch.from_numpy(np.ascontiguousarray(found[()]))


def _name(where: str) -> str:
    return re.sub(r":0$", "", where).replace("/", ".")
