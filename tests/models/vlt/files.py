"""A published VLT file of toy width, made in the test."""

import numpy as np
import torch

from helpers.keras_files import write_keras
from refseg.models import catalog
from refseg.models.vlt.config import VARIANTS
from refseg.models.vlt.convert import published_shapes
from refseg.models.vlt.keras_layout import parts

DEBUG = VARIANTS["debug"]


SPREAD = 0.02


def layers_of(config=DEBUG, seed=0):
    """Random tensors by layer and weight path, in the order of the file."""
    generator, shapes = np.random.default_rng(seed), published_shapes(config)
    return {
        layer: {part.weight.replace(".", "/"): _values(generator, shapes[part.ours]) for part in members}
        for layer, members in parts(config).items()
    }


def _values(generator, shape):
    """Positive, as variances must be, and small, so that no answer overflows."""
    return np.abs(generator.normal(scale=SPREAD, size=shape)).astype(np.float32)


def published_file(path, config=DEBUG, **options):
    return write_keras(path, layers_of(config), **options)


def renumbered(layers, start=100):
    """The same layers under names of a later model of one process, with layers without weights between them."""
    found = {}
    for number, (layer, weights) in enumerate(layers.items()):
        new = f"{layer.rsplit('_', 1)[0]}_{start + number}"
        found[f"activation_{number}"] = {}
        found[new] = {f"{new}/w{index}": values for index, values in enumerate(weights.values())}
    return found


def fresh(config=DEBUG):
    torch.manual_seed(0)
    return catalog.build("vlt", config)
