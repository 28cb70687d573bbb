"""A run that is killed or interrupted ends, once resumed, with the weights of one that never stopped."""

import json
import os
import signal
import time

import pytest
from safetensors.torch import load_file

STEPS = 10
RECIPE = f"""
family = "scout"
variant = "debug"
seed = 3
[data]
name = "scenes"
phrases = 2
flip = 0.5
[optimizer]
lr = 1e-3
clip_norm = 1.0
accumulate = 2
[schedule]
warmup_steps = 3
[run]
steps = {STEPS}
batch_size = 2
precision = "bfloat16"
channels_last = true
ema = 0.9
evaluate_every = 4
evaluate_examples = 2
save_every = 3
log_every = 1
final_protocols = "none"
"""

# The run kills itself without warning when the state file of step 6 is half written.
KILLED_WHILE_SAVING = """
import os, signal, torch
from refseg.training import checkpointing

save = torch.save

def save_half(values, file):
    if values["step"] == 6:
        save(values, file)
        file.truncate(file.tell() // 2)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(values, file)

checkpointing.torch.save = save_half
"""


@pytest.fixture(scope="module")
def start(server):
    """Starts a run."""

    def begin(folder, *arguments, code=""):
        recipe = folder.parent / "recipe.toml"
        recipe.write_text(RECIPE)
        command = ["train", recipe, "--out", folder, "--device", "cpu", *arguments]
        return server.start(*command, told=folder.parent, code=code)

    return begin


def steps_logged(folder):
    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in lines if line.endswith("}") and "loss" in line]


def wait_for_step(folder, step, process):
    while max(steps_logged(folder), default=0) < step:
        assert process.is_running(), f"the run ended early: {process.end()}"
        time.sleep(0.02)


def bytes_of(path):
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = start(folder).end()
    assert code == 0, err
    return folder


def must_be_equal(folder, uninterrupted):
    assert bytes_of(folder / "last.safetensors") == bytes_of(uninterrupted / "last.safetensors")
    assert bytes_of(folder / "best.safetensors") == bytes_of(uninterrupted / "best.safetensors")
    assert steps_logged(folder) == list(range(1, STEPS + 1))


def test_the_weights_of_the_run_have_moved_and_differ_between_seeds(tmp_path, start, uninterrupted):
    code, _, err = start(tmp_path / "run", "seed=4", "run.evaluate_examples=0").end()
    assert code == 0, err
    assert bytes_of(tmp_path / "run/last.safetensors") != bytes_of(uninterrupted / "last.safetensors")


def test_a_run_killed_in_the_middle_ends_with_the_same_weights(tmp_path, start, uninterrupted):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(folder, 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    assert max(steps_logged(folder)) < STEPS
    code, _, err = start(folder, "--resume").end()
    assert code == 0, err
    must_be_equal(folder, uninterrupted)


def test_a_run_killed_before_its_first_save_begins_again(tmp_path, start, uninterrupted):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(folder, 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    code, _, err = start(folder, "--resume").end()
    assert code == 0, err
    must_be_equal(folder, uninterrupted)


def test_a_run_killed_while_it_saves_ends_with_the_same_weights(tmp_path, start, uninterrupted):
    folder = tmp_path / "run"
    code, _, _ = start(folder, code=KILLED_WHILE_SAVING).end()
    assert code == -signal.SIGKILL
    assert list(folder.glob(".state.*.part.pt"))
    code, _, err = start(folder, "--resume").end()
    assert code == 0, err
    assert "resumed after step 4" in err  # saved before the measurement
    assert not list(folder.glob(".*"))
    must_be_equal(folder, uninterrupted)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_asked_to_stop_saves_and_leaves_and_goes_on(tmp_path, start, uninterrupted, number, exit_code):
    folder = tmp_path / "run"
    process = start(folder, "data.workers=1")
    wait_for_step(folder, 4, process)
    os.kill(process.pid, number)
    code, _, err = process.end()
    assert code == exit_code
    assert err.splitlines()[-1].startswith("refseg: stopped after step ")
    assert "Traceback" not in err
    code, _, err = start(folder, "--resume").end()
    assert code == 0, err
    must_be_equal(folder, uninterrupted)
