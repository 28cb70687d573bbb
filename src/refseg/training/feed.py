"""Batches for a run: examples varied and collated, in an order that only the seed and the step decide."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from refseg import distributed
from refseg.data.catalog import PhraseDataset
from refseg.data.collate import collate
from refseg.data.sampling import Positions as BatchPositions
from refseg.errors import InvalidInput, RefsegError
from refseg.framing import FrameSpec
from refseg.structures import Batch
from refseg.training.config import RunConfig
from refseg.training.sources import Drawn, Positions, Sources, as_sources
from refseg.training.start import changed


@dataclass(frozen=True)
class _Refusal:
    """A mistake in the data, told by the process that met it; an exception would lose its sentence on the way."""

    sentence: str


@dataclass(frozen=True)
class _Prepared:
    """A batch, and why examples were passed over while it was put together."""

    batch: Batch
    skipped: tuple[str, ...]


class _Varied(Dataset[Any]):
    """The examples of a run by position, for the processes that prepare them."""

    def __init__(self, sources: Sources) -> None:
        self.positions = Positions(sources)

    def __getitem__(self, position: int) -> Drawn | _Refusal:
        try:
            return self.positions[position]
        except RefsegError as error:
            return _Refusal(str(error))


class Feed(Iterator[Batch]):
    """The batches of a run, one after the other; `frame` is how their frames were placed.

    `skipped` holds, until `take_skipped` is asked, why examples were passed over for the batches given so far.
    """

    def __init__(self, loader: DataLoader[Any], frame: FrameSpec) -> None:
        self.frame = frame
        self._prepared = iter(loader)
        self._skipped: list[str] = []

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            InvalidInput: if an example cannot be read or does not fit its batch.
        """
        prepared = next(self._prepared)
        if isinstance(prepared, _Refusal):
            raise InvalidInput(prepared.sentence)
        self._skipped += prepared.skipped
        return prepared.batch

    def take_skipped(self) -> list[str]:
        """Why examples were passed over since this was last asked."""
        taken, self._skipped = self._skipped, []
        return taken


def batches(examples: PhraseDataset | Sources, run: RunConfig, spec: FrameSpec, *, start: int) -> Feed:
    """The batches from number `start` to the run's end, the same ones for any number of workers.

    Raises:
        InvalidInput: if a set is empty.
    """
    sources = as_sources(examples, run)
    for source, own in zip(sources.sources, run.data.each, strict=True):
        if len(source) == 0:
            raise InvalidInput(f"the data set {own.name}, split {own.split}, holds no example")
    steps = run.run.steps
    assert isinstance(steps, int), "lengths in epochs are resolved before a run begins"
    positions = BatchPositions(
        start,
        steps * run.optimizer.accumulate,
        batch_size=run.run.batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    frame = training_frame(run, spec)
    loader = DataLoader(
        _Varied(sources),
        batch_sampler=positions,
        collate_fn=partial(_collate, spec=frame),
        num_workers=run.data.workers,
        prefetch_factor=4 if run.data.workers else None,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # of its own: the loader would draw from the global one
    )
    return Feed(loader, frame)


def training_frame(run: RunConfig, spec: FrameSpec) -> FrameSpec:
    """How frames are placed in training: the family's way, with what the recipe changes."""
    return changed(spec, run.data.frame, "data.frame")


def _collate(drawn: Sequence[Drawn | _Refusal], spec: FrameSpec) -> _Prepared | _Refusal:
    accepted = [each for each in drawn if isinstance(each, Drawn)]
    for each in drawn:
        if isinstance(each, _Refusal):
            return each
    try:
        batch = collate([each.example for each in accepted], spec)
    except RefsegError as error:
        return _Refusal(str(error))
    return _Prepared(batch, tuple(reason for each in accepted for reason in each.skipped))


def _quiet_worker(_: int) -> None:
    """Workers end with the training process, which alone answers to signals; each computes on one thread."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
