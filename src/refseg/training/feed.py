"""Batches for a run: a data set, varied and collated, in an order that only the seed and the step decide."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from refseg import distributed
from refseg.data.augment import Augmentation
from refseg.data.collate import collate
from refseg.data.sampling import Order, Positions, generator_at
from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Batch, Example
from refseg.training.config import DataConfig, RunConfig

_ORDER, _VARIATION = 1, 2  # what a generator is for, so that no two uses draw the same numbers


class ExampleSet(Protocol):
    """What training needs of a data set."""

    def __getitem__(self, index: int) -> Example:
        """The example of an index; it depends on the index alone."""


class Varied(Dataset[Example]):
    """The examples of a set in the order of a run, each varied by a generator of its own."""

    def __init__(self, examples: ExampleSet, augmentation: Augmentation, seed: int) -> None:
        self.examples, self.augmentation, self.seed = examples, augmentation, seed
        self.order = Order(count_of(examples), seed=_ORDER + seed * 16)

    def __getitem__(self, position: int) -> Example:
        """The example that stands at `position` of the run."""
        example = self.examples[self.order[position]]
        return self.augmentation(example, generator_at(self.seed, _VARIATION, position))


def count_of(examples: ExampleSet) -> int | None:
    """How many examples a set holds; None for a set without end."""
    count = getattr(examples, "__len__", None)
    return None if count is None else int(count())


def batches(examples: ExampleSet, run: RunConfig, spec: FrameSpec, *, start: int) -> Iterator[Batch]:
    """The batches from number `start` to the run's end, the same ones for any number of workers.

    Raises:
        InvalidInput: if the set is empty.
    """
    if count_of(examples) == 0:
        raise InvalidInput(f"the data set {run.data.name}, split {run.data.split}, holds no example")
    positions = Positions(
        start,
        run.run.steps * run.optimizer.accumulate,
        batch_size=run.run.batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    loader = DataLoader(
        Varied(examples, augmentation_of(run.data), run.seed),
        batch_sampler=positions,
        collate_fn=partial(collate, spec=spec),
        num_workers=run.data.workers,
        prefetch_factor=4 if run.data.workers else None,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # of its own: the loader would draw from the global one
    )
    return iter(loader)


def augmentation_of(data: DataConfig) -> Augmentation:
    """The variation that a recipe asks for."""
    return Augmentation(flip=data.flip, scale=data.scale, crop=data.crop, phrases=data.phrases)


def open_training_data(data: DataConfig, side: int) -> Any:
    """The set of examples that the recipe's [data] section names; `side` is the canvas of the family."""
    return _open(data, data.name, data.split, side)


def open_evaluation_data(data: DataConfig, side: int) -> Any:
    """The set that a run is measured on."""
    return _open(data, data.evaluate_name or data.name, data.evaluate_split, side)


def _open(data: DataConfig, name: str, split: str, side: int) -> Any:
    if name == "scenes":
        return _open_scenes(data, split, side)
    raise InvalidInput(f"there is no data set {name!r}; known: scenes")


def _open_scenes(data: DataConfig, split: str, side: int) -> Any:
    from refseg.data.scenes.dataset import Scenes, ScenesSpec

    return Scenes(ScenesSpec(split=split, size=data.size or side, frames=data.frames))


def _quiet_worker(_: int) -> None:
    """Workers end with the training process, which alone answers to signals; each computes on one thread."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
