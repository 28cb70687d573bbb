"""The state file holds all that a run needs, and is whole or not there."""

import random

import numpy as np
import pytest
import torch

from refseg import files
from refseg.errors import InvalidInput
from refseg.training import checkpointing
from refseg.training.checkpointing import load_state, save_state, tidy_and_load_state
from refseg.training.recipe import run_from_values, to_toml
from refseg.training.run_folder import STATE_NAME
from refseg.training.state import random_states, restore_random_states, seed_all


def draw():
    return (
        torch.rand(3).tolist(),
        random.random(),
        np.random.rand(3).tolist(),
        random.gauss(),
        np.random.randn(),
    )


def test_restored_generators_draw_what_they_would_have_drawn(tmp_path):
    seed_all(5)
    random.gauss(), np.random.randn()  # both keep the second half of a pair for later
    save_state(tmp_path, {"random": random_states()})
    expected = draw()
    seed_all(6)
    restore_random_states(tidy_and_load_state(tmp_path)["random"])
    assert draw() == expected


def test_equal_seeds_draw_equally():
    seed_all(2**40 + 3)
    first = draw()
    seed_all(2**40 + 3)
    assert draw() == first


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    save_state(tmp_path, {"step": 3, "best": None, "weights": {"a": torch.arange(3)}})
    state = tidy_and_load_state(tmp_path)
    assert state["step"] == 3
    assert state["best"] is None
    assert state["weights"]["a"].tolist() == [0, 1, 2]


def test_a_folder_with_checkpoints_and_no_state_is_no_place_to_begin(tmp_path):
    run = run_from_values(
        {
            "family": "scout",
            "variant": "debug",
            "data": {"name": "scenes"},
            "optimizer": {"lr": 0.1},
            "run": {"steps": 1, "batch_size": 1},
        },
        source="test",
    )
    assert load_state(tmp_path, run) is None
    (tmp_path / "run.toml").write_text(to_toml(run))
    assert load_state(tmp_path, run) is None
    with pytest.raises(InvalidInput, match=r"another value of seed"):
        load_state(tmp_path, run.model_copy(update={"seed": 5}))
    (tmp_path / "best-at-000003.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"holds best-at-000003.safetensors and no state.pt"):
        load_state(tmp_path, run)


def test_without_a_state_there_is_none(tmp_path):
    assert tidy_and_load_state(tmp_path) is None


def test_a_save_that_fails_leaves_the_old_state_and_no_half_file(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 3})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InvalidInput, match=r"state of the run cannot be written to .*No space left"):
        save_state(tmp_path, {"step": 4})
    assert tidy_and_load_state(tmp_path)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]


def test_half_files_of_a_killed_save_are_cleared_away(tmp_path):
    for half in (".state.0a.part.pt", ".last.0b.part.safetensors", ".run.0c.part.toml", ".log.0d.part.jsonl"):
        (tmp_path / half).write_bytes(b"half")
    (tmp_path / ".photo.0e.part.png").write_bytes(b"of another command, which is still writing")
    tidy_and_load_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".photo.0e.part.png"]


def test_a_damaged_state_is_told_in_a_sentence(tmp_path):
    (tmp_path / STATE_NAME).write_bytes(b"no state")
    with pytest.raises(InvalidInput, match=r"state .*state\.pt cannot be read"):
        tidy_and_load_state(tmp_path)


def test_a_state_of_another_layout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "LAYOUT", 99)
    save_state(tmp_path, {"step": 3})
    monkeypatch.undo()
    with pytest.raises(InvalidInput, match="has layout 99"):
        tidy_and_load_state(tmp_path)
