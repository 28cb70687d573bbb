"""Batches of clips among those of pictures: decided by the position alone, whoever prepares them."""

from itertools import chain

import pytest

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.training import checkpointing
from refseg.training.batches import batches, positions_of
from refseg.training.checkpointing import regroup
from refseg.training.data import ExamplesByPosition, open_training_data
from refseg.training.recipe import run_from_values, to_toml

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


def sized(size, clips, *, accumulate=1, steps=6):
    run = run_of()
    parts = {
        "data": run.data.model_copy(
            update={"clips": run.data.clips.model_copy(update={"batch_size": clips})}
        ),
        "run": run.run.model_copy(update={"batch_size": size, "steps": steps}),
        "optimizer": run.optimizer.model_copy(update={"accumulate": accumulate}),
    }
    return run.model_copy(update=parts)


def dealt(monkeypatch, run, processes):
    """The positions of every batch on each process: [rank][batch]."""
    monkeypatch.setattr("refseg.distributed.world_size", lambda: processes)
    found = []
    for rank in range(processes):
        monkeypatch.setattr("refseg.distributed.rank", lambda rank=rank: rank)
        found.append(list(positions_of(run, 0, run.run.steps * run.optimizer.accumulate)))
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clips", [4, None])
@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("now", [1, 2, 4])
def test_a_run_on_other_processes_shows_the_same_clips_and_pictures(
    monkeypatch, accumulate, clips, before, now
):
    run = sized(8 // before, None if clips is None else clips // before, accumulate=accumulate)
    straight = dealt(monkeypatch, run, before)
    state = {"processes": before, "examples": 8 * accumulate}
    monkeypatch.setattr("refseg.distributed.world_size", lambda: now)
    moved, line = regroup(run, state)
    # A batch may not be split in two, or others would be of clips.
    assert moved.optimizer.accumulate == accumulate
    shown = dealt(monkeypatch, moved, now)
    everything = [sorted(chain(*parts)) for parts in zip(*straight, strict=True)]
    assert [sorted(chain(*parts)) for parts in zip(*shown, strict=True)] == everything
    assert {len(batch) for batch in everything} == {8, clips or 8}
    assert f"{(clips or 8) // now} where they are clips" in line or now == before


def test_a_run_goes_from_one_to_two_processes_and_on_to_four(monkeypatch):
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 4)
    moved, _ = regroup(sized(16, 12), {"processes": 2, "examples": 16})
    assert (moved.run.batch_size, moved.data.clips.batch_size) == (4, 3)


def test_clips_that_cannot_be_dealt_out_are_refused_with_the_numbers_that_can(monkeypatch):
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 4)
    with pytest.raises(InvalidInput, match=r"16 pictures or 10 clips .* 4 cannot .* start 1 or 2 processes"):
        regroup(sized(16, 10), {"processes": 1, "examples": 16})


def test_batches_of_another_size_are_refused_when_a_run_with_clips_goes_on(tmp_path):
    saved, other = sized(8, 4), sized(4, 4, accumulate=2)
    (tmp_path / "run.toml").write_text(to_toml(saved))
    with pytest.raises(InvalidInput, match="leave them at 8 and 1"):
        checkpointing._check_resumable({"random": [None]}, saved, other, tmp_path)
    checkpointing._check_resumable({"random": [None]}, saved, saved, tmp_path)


def test_a_worker_that_counts_itself_alone_draws_what_the_run_draws(monkeypatch):
    run = sized(2, 2)
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 2)
    positions = ExamplesByPosition(open_training_data(run, 32))
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 1)  # as in a process started anew
    kinds = [positions[position].example.frames.shape[0] for position in range(12)]
    assert kinds == [1] * 8 + [4] * 4
