"""Batches of clips among those of pictures: decided by the position alone, whoever prepares them."""

import pytest

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.training.config import run_from_values
from refseg.training.feed import batches
from refseg.training.sources import open_training_data

FRAME = FrameSpec(fit="letterbox", size=32)


def run_of(clips=(), **data):
    clips = {"every": 3, "frames": 4, "targets": 2, "phrases": 1, "batch_size": 2} | dict(clips)
    values = {
        "family": "scout",
        "variant": "debug",
        "objective": "phrases_and_motion",
        "data": {"name": "scenes", "size": 32, "phrases": 2, "clips": clips} | data,
        "optimizer": {"lr": 0.1},
        "run": {"steps": 7, "batch_size": 3},
    }
    return run_from_values(values, source="test")


def shown(run, *, start=0):
    feed = batches(open_training_data(run, 32), run, FRAME, start=start)
    return [
        (
            tuple(b.clips.pixels.shape[:2]),
            b.phrases,
            None if b.clips.target_frames is None else b.clips.target_frames.tolist(),
            b.clips.pixels.sum().item(),
        )
        for b in feed
    ]


def test_every_third_batch_is_one_of_clips_with_sizes_of_its_own():
    told = shown(run_of())
    assert [shape for shape, *_ in told] == [(3, 1), (3, 1), (2, 4)] * 2 + [(3, 1)]
    assert [len(phrases) for _, phrases, *_ in told] == [6, 6, 2] * 2 + [6]


def test_phrases_of_clips_are_asked_of_a_few_frames_drawn_anew():
    chosen = [targets for _, _, targets, _ in shown(run_of()) if targets]
    assert all(len(row) == 2 and row == sorted(set(row)) for rows in chosen for row in rows)
    assert len({tuple(row) for rows in chosen for row in rows}) > 1


def test_clips_and_pictures_have_registers_of_their_own():
    run = run_of({"registers": {"none": 1.0}}, registers={"app": 1.0})
    for batch in batches(open_training_data(run, 32), run, FRAME, start=0):
        is_clip = batch.clips.pixels.shape[1] == 4
        assert bool(batch.targets.visible.any()) != is_clip


def test_workers_and_a_later_start_change_nothing():
    whole = shown(run_of())
    assert shown(run_of(workers=2)) == whole
    assert shown(run_of(), start=4) == whole[4:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "my.jsonl"}, "scenes"),
        ({"frames": 2}, "frames = 1"),
        ({"clips": {"every": 2, "frames": 1}}, "frames"),
        ({"clips": {"every": 2, "frames": 3, "targets": 4}}, "more than frames"),
        ({"clips": {"every": 2, "frames": 3, "batch_size": 4}}, "more than run.batch_size"),
    ],
)
def test_clips_that_cannot_be_are_refused(data, words):
    with pytest.raises(InvalidInput, match=words):
        run_of(**data)
