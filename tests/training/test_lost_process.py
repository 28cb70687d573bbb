"""Of two processes that train together one is gone: the other ends soon, with a sentence, and the run goes on from its state."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refseg.checkpoints import native
from refseg.training.run_folder import saved_step
from training.test_kill import logged, must_be_equal

RECIPE = """
family = "scout"
variant = "debug"
objective = "naming"
model = {num_nouns = 192, num_colours = 16}
seed = 3
[data]
name = "scenes"
phrases = 0
[optimizer]
lr = 3e-3
[run]
steps = %d
batch_size = 1
evaluate_every = 5
evaluate_examples = 2
save_every = 2
log_every = 1
final_protocols = "none"
"""
STEPS = 36

# Without this the process that is left would be told of one that merely hangs after a minute.
IMPATIENT = """
from refseg.training import heartbeat
heartbeat.MOST_MISSED = 6
"""
# The second process meets an example that cannot be read.
RAISING = """
import os
from refseg.errors import InvalidInput
from refseg.training.batches import BatchLoader
if os.environ["RANK"] == "1":
    take = BatchLoader.__next__
    taken = []
    def give(self):
        taken.append(1)
        if len(taken) == 3:
            raise InvalidInput("a picture cannot be read")
        return take(self)
    BatchLoader.__next__ = give
"""


def start_two(server, folder, *, code="", more=()):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    goes_on = ["--resume"] if (folder / "run.toml").exists() else ["--force"]
    command = ["train", folder.parent / "recipe.toml", *more, "--out", folder, "--device", "cpu", *goes_on]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [
        server.start(*command, told=folder.parent, code=code, RANK=str(n), LOCAL_RANK=str(n), **places)
        for n in (0, 1)
    ]


def run_in(parent, steps=STEPS):
    parent.mkdir(exist_ok=True)
    (parent / "recipe.toml").write_text(RECIPE % steps)
    return parent / "run"


def wait_for_step(folder, step, runs):
    end = time.monotonic() + 120
    while max((line["step"] for line in logged(folder)), default=0) < step:
        assert all(run.is_running() for run in runs) and time.monotonic() < end, runs[0].err.read_text()
        time.sleep(0.005)


def must_tell(run, lost, seconds=40):
    """The process that was left ended by itself, with one sentence after what it told before."""
    began = time.monotonic()
    code, out, err = run.end(seconds)
    last = err.splitlines()[-1]
    assert code == 2, err
    assert out == ""
    assert last.startswith(f"refseg: process {lost} of 2 was lost"), err
    assert "the state of step" in last and "go on with --resume" in last
    assert "Traceback" not in err
    return time.monotonic() - began


def test_a_run_that_loses_a_process_ends_soon_and_goes_on_exactly(tmp_path, server):
    whole, folder = run_in(tmp_path / "whole"), run_in(tmp_path / "lost")
    for run in start_two(server, whole):
        assert run.end()[0] == 0
    for lost, step in ((1, 4), (0, 12)):  # killed
        runs = start_two(server, folder)
        wait_for_step(folder, step, runs)
        os.kill(runs[lost].pid, signal.SIGKILL)
        assert must_tell(runs[1 - lost], lost) < 30
        assert runs[lost].end()[0] == -signal.SIGKILL
    left, raising = start_two(server, folder, code=RAISING)
    code, _, err = raising.end()
    assert (code, err.splitlines()[-1]) == (2, "refseg: a picture cannot be read")
    must_tell(left, lost=1)
    runs = start_two(server, folder, code=IMPATIENT)  # hangs
    wait_for_step(folder, 20, runs)
    os.kill(runs[1].pid, signal.SIGSTOP)
    assert must_tell(runs[0], lost=1) < 30
    os.kill(runs[1].pid, signal.SIGKILL)
    runs[1].end()
    for run in start_two(server, folder):
        assert run.end()[0] == 0, run.err.read_text()
    must_be_equal(folder, whole)


@pytest.mark.slow
def test_a_request_to_stop_may_reach_one_process_or_both(tmp_path, server):
    folder = run_in(tmp_path / "asked")
    for step, asked in ((3, (1,)), (9, (0, 1))):
        runs = start_two(server, folder)
        wait_for_step(folder, step, runs)
        for rank in asked:
            os.kill(runs[rank].pid, signal.SIGTERM)
        ended = [run.end() for run in runs]
        assert [code for code, _, _ in ended] == [143, 143], ended
        assert ended[0][2].splitlines()[-1].startswith("refseg: stopped after step ")
        assert "Traceback" not in ended[0][2] + ended[1][2]
    for run in start_two(server, folder):
        assert run.end()[0] == 0
    assert [line["step"] for line in logged(folder) if "loss" in line] == list(range(1, STEPS + 1))
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"] == STEPS


@pytest.fixture
def launched(tmp_path):
    """A run of two processes under torchrun."""
    folder = run_in(tmp_path / "launched", steps=400)
    source = str(Path(__file__).parents[2] / "src")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "refseg",
    ]
    command += ["train", str(folder.parent / "recipe.toml"), "--out", str(folder), "--device", "cpu"]
    with (tmp_path / "told.txt").open("w") as told:
        launcher = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    yield launcher, folder, tmp_path / "told.txt"
    launcher.kill()
    launcher.wait()


def wait_until_logged(folder, step, launcher):
    end = time.monotonic() + 300
    while max((line["step"] for line in logged(folder)), default=0) < step:
        assert launcher.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def ranks_of(launcher):
    """The numbers of the two processes, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f") S {launcher.pid} " in (stat := (place / "stat").read_text())
                or f") R {launcher.pid} " in stat
            ):
                variables = (place / "environ").read_bytes().split(b"\0")
                found |= {int(one[5:]): int(place.name) for one in variables if one.startswith(b"RANK=")}
        except OSError:
            continue  # it ended while we looked
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_torchrun_saves_once_and_ends_all(launched, number):
    launcher, folder, told = launched
    wait_until_logged(folder, 3, launcher)
    os.killpg(launcher.pid, number)  # as a terminal does; its processes have groups of their own
    assert launcher.wait(60) != 0
    lines = [line for line in told.read_text().splitlines() if line.startswith("refseg: stopped after step ")]
    assert len(lines) == 1, told.read_text()
    assert f"stopped after step {saved_step(folder)} of 400" in lines[0]
    assert native.verify(folder / "last.safetensors").origin["step"] == str(saved_step(folder))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc for processes")
def test_a_process_killed_under_torchrun_is_told_of_by_the_other(launched):
    launcher, folder, told = launched
    wait_until_logged(folder, 3, launcher)
    os.kill(ranks_of(launcher)[1], signal.SIGKILL)
    assert launcher.wait(60) != 0
    assert "refseg: process 1 of 2 was lost" in told.read_text()
    assert "go on with --resume" in told.read_text()
    assert native.verify(folder / "last.safetensors")
