"""Ranks share out what one process would see: step by step the same examples, each once, wherever a run is taken up."""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.datasets import ListedExamples
from refseg import distributed
from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Example
from refseg.training.batches import batches
from refseg.training.data import TrainingSets, build_training_set
from refseg.training.recipe import run_from_values

FRAME = FrameSpec("letterbox", 8, mean=(0, 0, 0), std=(1 / 255,) * 3)


class Numbered(ListedExamples):
    """Pictures that show their own number in the left half; every third one is tall."""

    vocabulary = ("left", "half")

    def __init__(self, name, count, first):
        self.name, self.count, self.first = name, count, first

    def __len__(self):
        return self.count

    def size(self, index):
        return (8, 4) if index % 3 == 0 else (4, 8)

    def example(self, index, frames=None):
        height, width = self.size(index)
        pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        pixels[..., : width // 2] = self.first + index
        return Example(f"{self.name} {index}", pixels, ("left half",), (pixels[:, 0] > 0)[None])


class Plan:
    """A recipe over some sets, for any number of processes with the same examples in a step."""

    def __init__(self, counts, shares, *, together, accumulate, steps, seed, ends, same_shape, workers=0):
        names = [f"set{number}" for number in range(len(counts))]
        self.sets = [
            Numbered(name, count, 1 + 60 * n)
            for n, (name, count) in enumerate(zip(names, counts, strict=True))
        ]
        named = [{"name": name} for name in names]
        if shares is not None:
            named = [each | {"share": share} for each, share in zip(named, shares, strict=True)]
        self.together = together
        self.values = {
            "family": "scout",
            "variant": "debug",
            "seed": seed,
            "data": {"sets": named, "same_shape": same_shape, "flip": 0.5, "workers": workers},
            "optimizer": {"lr": 0.1, "accumulate": accumulate},
            "run": {"steps": steps, "epoch_ends": ends},
        }

    def seen(self, world_size, start=0):
        """By batch, what all ranks together see from batch `start` on: numbers, and which way round."""
        each = [self._of_rank(rank, world_size, start) for rank in range(world_size)]
        return [sorted(example for part in parts for example in part) for parts in zip(*each, strict=True)]

    def _of_rank(self, rank, world_size, start):
        section = self.values["run"] | {"batch_size": self.together // world_size}
        run = run_from_values(self.values | {"run": section}, source="test")
        pairs = zip(self.sets, run.data.each, strict=True)
        with ExitStack() as pretended:
            pretended.enter_context(patch.object(distributed, "rank", lambda: rank))
            pretended.enter_context(patch.object(distributed, "world_size", lambda: world_size))
            sources = TrainingSets([build_training_set(one, own, run.data) for one, own in pairs], run)
            feed = batches(sources, run, FRAME, start=start)
            return [list(zip(*self._shown(batch), strict=True)) for batch in feed]

    @staticmethod
    def _shown(batch):
        pixels = batch.clips.pixels[:, 0, 0]
        where = pixels.flatten(1).argmax(1)
        return pixels.amax((1, 2)).round().int().tolist(), where.tolist()


@st.composite
def plans(draw):
    counts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    shares = None
    if draw(st.booleans()):
        shares = draw(st.lists(st.integers(1, 3), min_size=len(counts), max_size=len(counts)))
    return {
        "counts": counts,
        "shares": shares,
        "accumulate": draw(st.integers(1, 3)),
        "steps": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 99)),
        "ends": draw(st.sampled_from(["run_on", "drop", "fill"])),
        "same_shape": shares is None and draw(st.booleans()),
    }


def seen_or_assume(plan, *args):
    """Some sets are too small for a step whose rest is dropped; they are refused alike."""
    try:
        return plan.seen(*args)
    except InvalidInput:
        assume(False)


@given(plan=plans(), world_size=st.integers(2, 5), size=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_in_every_batch_all_ranks_see_what_one_process_would(plan, world_size, size):
    plan = Plan(**plan, together=world_size * size)
    alone = seen_or_assume(plan, 1)
    assert plan.seen(world_size) == alone


@given(plan=plans(), sizes=st.permutations([1, 2, 3, 6]), place=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_a_run_taken_up_at_any_step_by_another_number_of_ranks_sees_what_is_left(plan, sizes, place):
    plan = Plan(**plan, together=6)
    start = int(place * plan.values["run"]["steps"]) * plan.values["optimizer"]["accumulate"]
    whole = seen_or_assume(plan, sizes[1])
    assert plan.seen(sizes[0], start) == whole[start:]


@given(count=st.integers(1, 40), world_size=st.integers(1, 4), size=st.integers(1, 3), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_an_epoch_shows_every_example_once_over_all_ranks(count, world_size, size, seed):
    together = world_size * size
    steps = -(-2 * count // together)
    plan = Plan(
        [count],
        None,
        together=together,
        accumulate=1,
        steps=steps,
        seed=seed,
        ends="run_on",
        same_shape=False,
    )
    # Batches are sorted, so epochs are told apart by counting: two whole ones at least, and the beginning of another.
    shown = [number for batch in plan.seen(world_size) for number, _ in batch]
    whole = len(shown) // count
    assert len(shown) == steps * together
    assert whole >= 2
    assert all(shown.count(number) in (whole, whole + 1) for number in range(1, count + 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_rank_change_nothing(workers):
    settings = {"together": 4, "accumulate": 2, "steps": 3, "seed": 1, "ends": "run_on", "same_shape": False}
    alone, helped = (Plan([7, 5], [2, 1], **settings, workers=number) for number in (0, workers))
    assert helped.seen(2) == alone.seen(1)
