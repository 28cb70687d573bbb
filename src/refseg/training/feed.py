"""Batches for a run: a data set, varied and collated, in an order that only the seed and the step decide."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from refseg import distributed
from refseg.data.augment import Augmentation, swap_sides
from refseg.data.catalog import PhraseDataset, open_dataset
from refseg.data.collate import collate
from refseg.data.sampling import Order, Positions, generator_at
from refseg.errors import InvalidInput, RefsegError
from refseg.framing import FrameSpec
from refseg.structures import Batch, Example
from refseg.training.config import DataConfig, RunConfig

SCENES = "scenes"
_VARIATION = 2  # what a generator is for, so that no two uses draw the same numbers


@dataclass(frozen=True)
class _Refusal:
    """A mistake in the data, told by the process that met it; an exception would lose its sentence on the way."""

    sentence: str


class Varied(Dataset[Any]):
    """The examples of a set in the order of a run, each varied by a generator of its own."""

    def __init__(self, examples: PhraseDataset, order: Order, augmentation: Augmentation, seed: int) -> None:
        self.examples, self.order = examples, order
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, position: int) -> Example | _Refusal:
        """The example that stands at `position` of the run."""
        try:
            example = self.examples[self.order[position]]
            return self.augmentation(example, generator_at(self.seed, _VARIATION, position))
        except RefsegError as error:
            return _Refusal(str(error))


def batches(examples: PhraseDataset, run: RunConfig, spec: FrameSpec, *, start: int) -> Iterator[Batch]:
    """The batches from number `start` to the run's end, the same ones for any number of workers.

    Raises:
        InvalidInput: if the set is empty; later, if an example cannot be read or does not fit its batch.
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
        collate_fn=partial(_collate, spec=spec),
        num_workers=run.data.workers,
        prefetch_factor=4 if run.data.workers else None,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # of its own: the loader would draw from the global one
    )
    return _accepted(loader)


def _collate(examples: Sequence[Example | _Refusal], spec: FrameSpec) -> Batch | _Refusal:
    accepted = [example for example in examples if isinstance(example, Example)]
    for example in examples:
        if isinstance(example, _Refusal):
            return example
    try:
        return collate(accepted, spec)
    except RefsegError as error:
        return _Refusal(str(error))


def _accepted(loader: DataLoader[Any]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, _Refusal):
            raise InvalidInput(batch.sentence)
        yield batch


def order_of(examples: PhraseDataset, run: RunConfig) -> Order:
    """Scenes are drawn for the run and read one after the other; a stored set is dealt out anew in every epoch."""
    return Order(None if run.data.name == SCENES else len(examples), seed=run.seed)


def augmentation_of(data: DataConfig) -> Augmentation:
    """The variation that a recipe asks for; scenes are drawn with the phrases and frames asked for."""
    drawn = data.name == SCENES
    return Augmentation(
        flip=data.flip,
        scale=data.scale,
        crop=data.crop,
        phrases=None if drawn else data.phrases,
        frames=None if drawn else data.frames,
    )


def open_training_data(run: RunConfig, side: int) -> PhraseDataset:
    """The set of examples that the recipe's [data] section names; `side` is the canvas of the family."""
    data = run.data
    if data.name != SCENES:
        return _open_stored(data, data.name, data.split)
    needed = run.run.steps * run.optimizer.accumulate * run.run.batch_size * distributed.world_size()
    return _open_scenes(data, data.split, count=needed, seed=run.seed, side=side)


def open_evaluation_data(run: RunConfig, side: int) -> PhraseDataset | None:
    """The set that a run is measured on, or None where the recipe asks for no measurement."""
    data, count = run.data, run.run.evaluate_examples
    if count == 0:
        return None
    name = data.evaluate_name or data.name
    if name != SCENES:
        return _open_stored(data, name, data.evaluate_split, count=count)
    return _open_scenes(data, data.evaluate_split, count=count, seed=0, side=side)


def words_of(examples: PhraseDataset, data: DataConfig) -> tuple[str, ...]:
    """The words that the phrases of a set are made of, and those that mirroring makes of them."""
    mirrored = map(swap_sides, examples.vocabulary) if data.flip else ()
    return tuple(dict.fromkeys([*examples.vocabulary, *mirrored]))


def _open_scenes(data: DataConfig, split: str, *, count: int, seed: int, side: int) -> PhraseDataset:
    fields: dict[str, Any] = {"size": data.size or side, "frames": data.frames, "seed": seed}
    if data.registers:
        fields["registers"] = data.registers
    if data.phrases is not None:
        fields["phrases"] = data.phrases
    return open_dataset(SCENES, split=split, count=count, scenes=fields)


def _open_stored(data: DataConfig, name: str, split: str, *, count: int | None = None) -> PhraseDataset:
    for key, value in (("registers", data.registers), ("size", data.size)):
        if value:
            raise InvalidInput(f"data.{key} is for scenes; the data set {name} takes none")
    return open_dataset(name, split=split or None, count=count)


def _quiet_worker(_: int) -> None:
    """Workers end with the training process, which alone answers to signals; each computes on one thread."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
