"""Of two processes that train together one is gone: the other ends soon, with a sentence, and the run goes on from its state."""

import json
import os
import signal
import socket
import time

import pytest

from training.forks import ForkServer
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
from refseg.training import companions
companions.MOST_MISSED = 6
"""
# The second process meets an example that cannot be read.
RAISING = """
import os
from refseg.errors import InvalidInput
from refseg.training.feed import Feed
if os.environ["RANK"] == "1":
    take = Feed.__next__
    taken = []
    def give(self):
        taken.append(1)
        if len(taken) == 3:
            raise InvalidInput("a picture cannot be read")
        return take(self)
    Feed.__next__ = give
"""


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        yield server


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
