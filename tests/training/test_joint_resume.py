"""A run over several sets, with skipped examples and Keras' Adam, ends alike whether it was stopped or not."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from refseg.data.readers.phrase_file import PhraseFile
from refseg.errors import InvalidInput
from refseg.training.loop import train
from refseg.training.recipe import run_from_values
from refseg.training.signals import Interrupted
from training.recipes import made_data

STEPS = 6


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads are added in the order in which they end
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path):
    clips, pictures = made_data(tmp_path / "clips", frames=6), made_data(tmp_path / "pictures")
    return run_from_values(
        {
            "family": "scout",
            "variant": "debug",
            "seed": 5,
            "data": {
                "skip_bad": True,
                "sets": [
                    {"name": str(pictures), "share": 2, "augment": [{"step": "pseudo_clip", "frames": 3}]},
                    {"name": str(clips), "share": 1, "sample": {"rule": "around", "frames": 3}},
                ],
                "augment": [
                    {"step": "flip"},
                    {"step": "distort"},
                    {"step": "choice", "options": [[{"step": "resize", "short": [40, 56]}], []]},
                ],
            },
            "optimizer": {"kind": "keras_adam", "lr": 1e-3, "eps": 1e-7, "accumulate": 2},
            "schedule": {"kind": "step", "drops": ["1 epoch"], "warmup_steps": 2},
            "run": {"steps": STEPS, "batch_size": 2, "evaluate_examples": 0, "log_every": 1, "ema": 0.5},
        },
        source="test",
    )


def bytes_of(folder):
    return {name: t.numpy().tobytes() for name, t in load_file(folder / "last.safetensors").items()}


def trained(run, folder):
    folder.mkdir(exist_ok=True)
    train(run, folder, device=torch.device("cpu"), is_quiet=True)
    return bytes_of(folder)


def test_a_stopped_run_over_several_sets_ends_with_the_same_bits(run, tmp_path, monkeypatch):
    read = PhraseFile.example
    asked = []

    def read_or_stop(self, index, frames=None):
        asked.append(index)
        if len(asked) == stops_at:
            os.kill(os.getpid(), signal.SIGTERM)  # answered when the step is done
        if index == 1:
            raise InvalidInput("example 1 cannot be read")
        return read(self, index, frames)

    monkeypatch.setattr(PhraseFile, "example", read_or_stop)
    stops_at = 0
    whole = trained(run, tmp_path / "whole")
    asked.clear()
    stops_at = 20
    with pytest.raises(Interrupted):
        trained(run, tmp_path / "stopped")
    stopped_after = torch.load(tmp_path / "stopped/state.pt", weights_only=True)["step"]
    assert 0 < stopped_after < STEPS
    assert trained(run, tmp_path / "stopped") == whole
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "stopped")]
    assert states[0]["skipped"] == states[1]["skipped"] > 0
