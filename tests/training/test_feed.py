"""Batches are the same whoever prepares them and wherever the run is taken up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Example
from refseg.training.batches import batches
from refseg.training.data import open_training_data
from refseg.training.recipe import run_from_values

FRAME = FrameSpec(fit="letterbox", size=8, mean=(0, 0, 0), std=(1 / 255,) * 3)


class Numbered:
    """Seven pictures that show their own number in the left half, with two phrases each."""

    name = "numbered"

    def __len__(self):
        return 7

    def __getitem__(self, index):
        pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        pixels[..., :4] = 10 + index
        masks = (pixels[:, 0] > 0).expand(2, -1, -1, -1)
        return Example(str(index), pixels, ("left half", "left part"), masks)


def run_of(name="numbered", **sections):
    values = {
        "family": "scout",
        "variant": "debug",
        "data": {"name": name, "flip": 0.5, "phrases": 1} | sections.pop("data", {}),
        "optimizer": {"lr": 0.1, "accumulate": 2},
        "run": {"steps": 3, "batch_size": 2},
    }
    return run_from_values(values | sections, source="test")


def shown(feed):
    """What the batches show: numbers, on which side, and the phrases."""
    return [
        (b.clips.pixels.amax((1, 2, 3, 4)).tolist(), b.clips.pixels[:, 0, 0, 0, 0].tolist(), b.phrases)
        for b in feed
    ]


def test_a_step_takes_as_many_batches_as_it_accumulates():
    assert len(shown(batches(Numbered(), run_of(), FRAME, start=0))) == 3 * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_prepare_what_the_process_itself_would(workers):
    alone = shown(batches(Numbered(), run_of(), FRAME, start=0))
    helped = shown(batches(Numbered(), run_of(data={"workers": workers}), FRAME, start=0))
    assert helped == alone


def test_a_run_taken_up_later_sees_the_batches_that_are_left():
    whole = shown(batches(Numbered(), run_of(), FRAME, start=0))
    assert shown(batches(Numbered(), run_of(), FRAME, start=4)) == whole[4:]


def test_another_seed_shows_another_order():
    assert shown(batches(Numbered(), run_of(seed=1), FRAME, start=0)) != shown(
        batches(Numbered(), run_of(), FRAME, start=0)
    )


def test_preparing_batches_draws_nothing_from_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    shown(batches(Numbered(), run_of(), FRAME, start=0))
    assert torch.rand(1) == expected


def test_an_epoch_shows_every_picture_once():
    feed = batches(Numbered(), run_of(run={"steps": 4, "batch_size": 2}), FRAME, start=0)
    numbers = [int(number) - 10 for numbers, _, _ in shown(feed) for number in numbers]
    assert sorted(numbers[:7]) == sorted(numbers[7:14]) == list(range(7))


def test_scenes_are_new_at_every_position():
    run = run_of("scenes", data={"size": 64, "flip": 0.0}, run={"steps": 1, "batch_size": 3})
    examples = open_training_data(run, 64)
    assert len(examples) == 1 * 2 * 3
    batch = next(batches(examples, run, FrameSpec(fit="letterbox", size=64), start=0))
    assert len({clip.sum().item() for clip in batch.clips.pixels}) == 3


def test_an_empty_set_is_refused():
    class Empty(Numbered):
        def __len__(self):
            return 0

    with pytest.raises(InvalidInput, match="numbered, split train, holds no example"):
        batches(Empty(), run_of(), FRAME, start=0)


def test_keys_of_scenes_are_refused_for_other_data(tmp_path):
    run = run_of(str(tmp_path / "mine.jsonl"), data={"registers": {"loc": 1.0}})
    with pytest.raises(InvalidInput, match=r"data.registers is for scenes; .*mine.jsonl takes none"):
        open_training_data(run, 64)


KEPT = """
from refseg.framing import FrameSpec
from refseg.training.recipe import run_from_values
from refseg.training.batches import batches
from refseg.training.data import open_training_data
values = {"family": "scout", "variant": "debug", "data": {"name": "scenes", "size": 64, "workers": 1}}
values |= {"optimizer": {"lr": 1e-3}, "run": {"steps": 50, "batch_size": 2}}
run = run_from_values(values, source="here")
feed = batches(open_training_data(run, 64), run, FrameSpec(fit="letterbox", size=64), start=0)
next(feed)
"""


def test_a_feed_that_is_still_there_lets_the_interpreter_end():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert (
        subprocess.run([sys.executable, "-c", KEPT], env=environment, timeout=300, check=False).returncode
        == 0
    )
