"""The data loader: batches of a run, varied and collated in an order that only the seed and the step decide.

A batch is padded to its largest example. One process would pad to the largest of all; what the padding holds enters some
losses, so several processes pad to one canvas. It costs no time: in every step the others wait for the largest canvas anyway.
"""

from __future__ import annotations

import atexit
import ctypes
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from refseg import distributed
from refseg.data.collate import collate
from refseg.data.dataset import PhraseDataset
from refseg.data.sampling import Positions as BatchPositions
from refseg.errors import InvalidInput, RefsegError
from refseg.framing import FrameSpec
from refseg.structures import Batch, Clips, Targets
from refseg.training.data import (
    ExamplesByPosition,
    SampledExample,
    Skip,
    Tally,
    TrainingSets,
    as_training_sets,
    is_of_clips,
)
from refseg.training.initial_weights import with_changes
from refseg.training.schema import RunConfig

_SQUARE = ("stretch", "letterbox")  # fits whose canvas does not depend on the example


def on_one_canvas(batch: Batch, frame: FrameSpec) -> Batch:
    """The batch, padded right and at the bottom to the largest canvas of all processes; all of them ask together."""
    if distributed.world_size() == 1 or frame.fit in _SQUARE:
        return batch
    height, width = batch.clips.pixels.shape[-2:]
    wanted = distributed.largest(torch.tensor([height, width], device=batch.clips.pixels.device)).tolist()
    below, right = wanted[0] - height, wanted[1] - width
    if not below and not right:
        return batch
    return Batch(
        _enlarge_clips(batch.clips, below, right, frame.fill),
        tuple(replace(placement, canvas=(wanted[0], wanted[1])) for placement in batch.placements),
        batch.phrases,
        batch.clip_of_phrase,
        None if batch.targets is None else _enlarge_targets(batch.targets, below, right),
    )


def _enlarge_clips(clips: Clips, below: int, right: int, fill: float) -> Clips:
    return replace(
        clips, pixels=_pad(clips.pixels, below, right, fill), valid=_pad(clips.valid, below, right)
    )


def _enlarge_targets(targets: Targets, below: int, right: int) -> Targets:
    things = targets.things
    if things is not None:
        things = tuple(replace(each, ids=_pad(each.ids, below, right)) for each in things)
    return replace(targets, masks=_pad(targets.masks, below, right), things=things)


def _pad(values: Tensor, below: int, right: int, fill: float = 0.0) -> Tensor:
    return functional.pad(values, (0, right, 0, below), value=fill)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class _Refusal:
    """A mistake in the data, told by the process that met it; an exception would lose its sentence on the way."""

    sentence: str


@dataclass(frozen=True)
class _PreparedBatch:
    """A batch, and why examples were passed over while it was put together."""

    batch: Batch
    skipped: tuple[Skip, ...]
    sources: tuple[str, ...]  # the set of each example


class _VariedExamples(Dataset[Any]):
    """The examples of a run by position, for the processes that prepare them."""

    def __init__(self, sources: TrainingSets) -> None:
        self.positions = ExamplesByPosition(sources)

    def __getitem__(self, position: int) -> SampledExample | _Refusal:
        try:
            return self.positions[position]
        except RefsegError as error:
            return _Refusal(str(error))


class _ClipsCutShort:
    """The positions of every batch; those of clips leave the last positions of theirs unseen."""

    def __init__(self, positions: BatchPositions, run: RunConfig) -> None:
        self.positions, self.run = positions, run

    def __iter__(self) -> Iterator[list[int]]:
        clips = self.run.data.clips
        for batch in self.positions:
            short = clips is not None and is_of_clips(batch[0], self.run, self.positions.world_size)
            yield batch[: clips.batch_size] if short and clips is not None else batch

    def __len__(self) -> int:
        return len(self.positions)


class BatchLoader(Iterator[Batch]):
    """The batches of a run, one after the other; `frame` is how their frames were placed.

    `take_skipped` tells why examples were passed over since it was last asked; `tally` counts them all, by set.
    """

    def __init__(self, loader: DataLoader[Any], frame: FrameSpec) -> None:
        self.frame = frame
        self._prepared = iter(loader)
        atexit.register(_end_workers, weakref.ref(self._prepared))
        self._skipped: list[Skip] = []
        self.tally = Tally()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            InvalidInput: if an example cannot be read or does not fit its batch.
        """
        prepared = next(self._prepared)
        if isinstance(prepared, _Refusal):
            raise InvalidInput(prepared.sentence)
        self._skipped += prepared.skipped
        self.tally.note(prepared.sources, prepared.skipped)
        return prepared.batch

    def take_skipped(self) -> list[Skip]:
        """Why examples were passed over since this was last asked."""
        taken, self._skipped = self._skipped, []
        return taken


def _end_workers(prepared: weakref.ref[Any]) -> None:
    """Ends the processes of a feed that is still there when the interpreter ends.

    It would send each one SIGTERM, of which the first is not obeyed, and wait for them for ever.
    """
    end = getattr(prepared(), "_shutdown_workers", None)
    if end is not None:
        end()


def batches(
    examples: PhraseDataset | TrainingSets, run: RunConfig, spec: FrameSpec, *, start: int
) -> BatchLoader:
    """The batches from number `start` to the run's end, the same ones for any number of workers.

    Raises:
        InvalidInput: if a set is empty.
    """
    sources = as_training_sets(examples, run)
    for source, own in zip(sources.sources, run.data.each, strict=run.data.clips is None):
        if len(source) == 0:
            raise InvalidInput(f"the data set {own.name}, split {own.split}, holds no example")
    steps = run.run.steps
    assert isinstance(steps, int), "lengths in epochs are resolved before a run begins"
    frame = training_frame(run, spec)
    loader = DataLoader(
        _VariedExamples(sources),
        batch_sampler=positions_of(run, start, steps * run.optimizer.accumulate),
        collate_fn=partial(_collate, spec=frame),
        num_workers=run.data.workers,
        prefetch_factor=4 if run.data.workers else None,
        worker_init_fn=_silence_worker,
        generator=torch.Generator(),  # of its own: the loader would draw from the global one
    )
    return BatchLoader(loader, frame)


def positions_of(run: RunConfig, start: int, stop: int) -> BatchPositions | _ClipsCutShort:
    """The positions of this process's batches from number `start` up to `stop`."""
    positions = BatchPositions(
        start,
        stop,
        batch_size=run.run.batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    return positions if run.data.clips is None else _ClipsCutShort(positions, run)


def training_frame(run: RunConfig, spec: FrameSpec) -> FrameSpec:
    """How frames are placed in training: the family's way, with what the recipe changes."""
    return with_changes(spec, run.data.frame, "data.frame")


def _collate(drawn: Sequence[SampledExample | _Refusal], spec: FrameSpec) -> _PreparedBatch | _Refusal:
    accepted = [each for each in drawn if isinstance(each, SampledExample)]
    for each in drawn:
        if isinstance(each, _Refusal):
            return each
    try:
        batch = collate([each.example for each in accepted], spec)
    except RefsegError as error:
        return _Refusal(str(error))
    skipped = tuple(reason for each in accepted for reason in each.skipped)
    return _PreparedBatch(batch, skipped, tuple(each.source for each in accepted))


def _silence_worker(_: int) -> None:
    """Workers end with the training process, which alone answers to signals; each computes on one thread.

    Launchers, queues and terminals send a request to stop to every process of a run; the step that is under way still
    needs its batches. A second SIGTERM is obeyed: it is how the training process ends a worker that hangs.
    """
    import cv2

    signal.set_wakeup_fd(-1)  # of the training process
    for number in (signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _obey_the_next)
    _end_with_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _obey_the_next(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _end_with_parent() -> None:
    """Has Linux end this process when its parent ends, however that came about; elsewhere torch looks every few seconds."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
