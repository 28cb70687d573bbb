"""Keras weight files as the published programs write them, made in the test."""

import h5py
import numpy as np


def write_keras(path, layers, *, is_whole_model=False, chunks=1):
    """Writes `layers`, {layer: {weight path without `:0`: array}}, in their order; layers without weights may be empty.

    With `is_whole_model` the layers lie in a group of a saved model; with `chunks`, their list is cut into attributes.
    """
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if is_whole_model else file
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.3.1"
        names = [layer.encode() for layer in layers]
        if chunks == 1:
            root.attrs["layer_names"] = names
        else:
            for number, part in enumerate(np.array_split(names, chunks)):
                root.attrs[f"layer_names{number}"] = part
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in weights]
            for name, values in weights.items():
                group.create_dataset(f"{name}:0", data=values)
    return path
