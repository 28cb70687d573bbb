"""Two processes train what one would with batches twice as large, leave one run, and go on together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
family = "referformer"
variant = "debug"
model = {frame = {size = 64}}
seed = 3
[data]
name = "scenes"
frames = 2
phrases = 2
size = 64
[optimizer]
lr = 1e-4
clip_norm = 0.1
[schedule]
kind = "constant"
[run]
steps = 3
batch_size = %d
evaluate_examples = %d
save_every = 2
log_every = 1
"""

# Processes drop out different numbers, as they should; without that, two compute what one does.
WITHOUT_DROPOUT = """
import torch
from torch.nn import functional

plain = functional.scaled_dot_product_attention
functional.scaled_dot_product_attention = lambda *given, dropout_p=0.0, **named: plain(*given, **named)
torch.nn.Dropout.forward = lambda self, values: values
from refseg.cli import main
main()
"""


def environment(**more):
    source = str(Path(__file__).parents[2] / "src")
    return os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"} | more


def start(recipe, folder, *arguments, **more):
    command = [sys.executable, "-c", WITHOUT_DROPOUT]
    command += ["train", str(recipe), "--out", str(folder), "--device", "cpu"]
    return subprocess.Popen(
        [*command, *arguments],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(recipe, folder, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [start(recipe, folder, *arguments, RANK=str(n), LOCAL_RANK=str(n), **places) for n in (0, 1)]


def ended(processes):
    told = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], told


def logged(place):
    return [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def together(folder):
    recipe = folder / "two.toml"
    recipe.write_text(RECIPE % (1, 2))
    codes, told = ended(start_two(recipe, folder / "two"))
    assert codes == [0, 0], told
    return folder / "two", told


def test_two_processes_end_with_the_weights_of_one_with_batches_of_both(folder, together):
    recipe = folder / "one.toml"
    recipe.write_text(RECIPE % (2, 2))
    codes, told = ended([start(recipe, folder / "one")])
    assert codes == [0], told
    alone, both = load_file(folder / "one/last.safetensors"), load_file(together[0] / "last.safetensors")
    assert alone.keys() == both.keys()
    # Gradients are summed in another order, and Adam makes whole steps of tiny gradients whose sign is in doubt: some
    # weights differ by steps of 1e-4, most by nothing that counts.
    apart = torch.cat([(alone[n] - both[n]).abs().flatten() for n in alone if alone[n].is_floating_point()])
    assert float((apart > 2e-5).float().mean()) < 0.05
    one, two = (logged(place) for place in (folder / "one", together[0]))
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)
    assert two[0]["norm"] == pytest.approx(one[0]["norm"], rel=1e-4)  # of the averaged gradient
    assert two[2]["loss"] == pytest.approx(one[2]["loss"], rel=1e-2)
    assert len(two) == 4  # three steps and a measurement, written once


def test_the_first_process_alone_speaks_and_writes(together):
    place, told = together
    (out, err), (silent_out, silent_err) = told
    assert out.strip() == str(place / "last.safetensors")
    assert "step 3/3" in err
    assert "2 a step" in err
    assert silent_out == ""
    assert "step" not in silent_err
    assert {path.name for path in place.iterdir()} == {
        "run.toml",
        "log.jsonl",
        "state.pt",
        "last.safetensors",
        "best.safetensors",
    }


def test_a_run_goes_on_with_as_many_processes_and_no_other_number(folder, together):
    place, _ = together
    codes, told = ended([start(folder / "two.toml", place, "--resume")])
    assert codes == [2]
    assert "was saved by 2 processes and cannot go on with 1" in told[0][1]
    codes, told = ended(start_two(folder / "two.toml", place, "--resume"))
    assert codes == [0, 0], told
    assert "resumed after step 3" in told[0][1]


def test_random_states_of_every_process_are_kept(together):
    states = torch.load(together[0] / "state.pt", weights_only=True)["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
