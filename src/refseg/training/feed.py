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

_VARIATION = 2  # what a generator is for, so that no two uses draw the same numbers


class ExampleSet(Protocol):
    """What training needs of a data set."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example of an index; it depends on the index alone."""


class Varied(Dataset[Example]):
    """The examples of a set in the order of a run, each varied by a generator of its own."""

    def __init__(self, examples: ExampleSet, order: Order, augmentation: Augmentation, seed: int) -> None:
        self.examples, self.augmentation, self.seed = examples, augmentation, seed
        self.order = order

    def __getitem__(self, position: int) -> Example:
        """The example that stands at `position` of the run."""
        example = self.examples[self.order[position]]
        return self.augmentation(example, generator_at(self.seed, _VARIATION, position))


def batches(examples: ExampleSet, run: RunConfig, spec: FrameSpec, *, start: int) -> Iterator[Batch]:
    """The batches from number `start` to the run's end, the same ones for any number of workers.

    Raises:
        InvalidInput: if the set is empty.
    """
    if len(examples) == 0:
        raise InvalidInput(f"the data set {run.data.name}, split {run.data.split}, holds no example")
    positions = Positions(
        start,
        run.run.steps * run.optimizer.accumulate,
        batch_size=run.run.batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    loader = DataLoader(
        Varied(examples, order_of(examples, run), augmentation_of(run.data), run.seed),
        batch_sampler=positions,
        collate_fn=partial(collate, spec=spec),
        num_workers=run.data.workers,
        prefetch_factor=4 if run.data.workers else None,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # of its own: the loader would draw from the global one
    )
    return iter(loader)


def order_of(examples: ExampleSet, run: RunConfig) -> Order:
    """Scenes are drawn for the run and read one after the other; a stored set is dealt out anew in every epoch."""
    return Order(None if run.data.name == "scenes" else len(examples), seed=run.seed)


def augmentation_of(data: DataConfig) -> Augmentation:
    """The variation that a recipe asks for; scenes are drawn with the phrases and frames asked for."""
    drawn = data.name == "scenes"
    return Augmentation(
        flip=data.flip,
        scale=data.scale,
        crop=data.crop,
        phrases=None if drawn else data.phrases,
        frames=None if drawn else data.frames,
    )


def open_training_data(run: RunConfig, side: int) -> Any:
    """The set of examples that the recipe's [data] section names; `side` is the canvas of the family."""
    data = run.data
    if data.name == "scenes":
        needed = run.run.steps * run.optimizer.accumulate * run.run.batch_size * distributed.world_size()
        return _open_scenes(data, split=data.split, count=needed, seed=run.seed, side=side)
    return _open_other(data, data.name, data.split)


def open_evaluation_data(data: DataConfig, side: int, *, num_examples: int) -> Any:
    """The set that a run is measured on: at most `num_examples` examples."""
    name = data.evaluate_name or data.name
    if name == "scenes":
        return _open_scenes(data, split=data.evaluate_split, count=num_examples, seed=0, side=side)
    return _open_other(data, name, data.evaluate_split, count=num_examples)


def words_of(examples: Any) -> tuple[str, ...] | None:
    """The words that the phrases of a set are made of, where it knows them."""
    known: tuple[str, ...] | None = getattr(examples, "vocabulary", None)
    return known


def _open_scenes(data: DataConfig, *, split: str, count: int, seed: int, side: int) -> Any:
    from refseg.data.scenes.dataset import Scenes, ScenesSpec

    given: dict[str, Any] = {"registers": tuple(data.registers.items())} if data.registers else {}
    if data.phrases is not None:
        given["phrases"] = data.phrases
    size = data.size or side
    return Scenes(ScenesSpec(split=split, size=size, frames=data.frames, count=count, seed=seed, **given))  # type: ignore[arg-type]


def _open_other(data: DataConfig, name: str, split: str, *, count: int | None = None) -> Any:
    from refseg.data.catalog import open_dataset

    for key, value in (("registers", data.registers), ("size", data.size)):
        if value:
            raise InvalidInput(f"data.{key} is for scenes; the data set {name} takes none")
    return open_dataset(name, split=split, count=count)


def _quiet_worker(_: int) -> None:
    """Workers end with the training process, which alone answers to signals; each computes on one thread."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
