"""A run that is asked to stop: in a step, while it saves, while it measures, at its end, twice, and with others of its group."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from refseg.training import signals
from refseg.training.signals import Interrupted, Interruption
from training.test_kill import must_be_equal, must_be_equal_but_workers, train

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
steps = 6
batch_size = 1
evaluate_every = 4
evaluate_examples = 2
save_every = 2
log_every = 1
final_protocols = "none"
"""

# At one moment of the run, `action` is done once.
AT = """
import os, signal, time
from refseg.checkpoints import native
from refseg.training import checkpointing, loop
from refseg.training.run_folder import saved_step

def ask(number=signal.SIGTERM, count=1):
    for _ in range(count):
        os.kill(os.getpid(), number)

def at(module, name, is_now, action):
    ordinary = getattr(module, name)
    def changed(*given, **named):
        if is_now(*given):
            action()
        return ordinary(*given, **named)
    setattr(module, name, changed)

in_step = lambda number: (loop, "_one_step", lambda training, *_: training.step + 1 == number)
in_saving = lambda number: (checkpointing, "save_state", lambda folder, values: values["step"] == number)
before = lambda name, step: (native, "save", lambda path, *_: path.name == name and saved_step(path.parent) == step)
in_measuring = (loop, "measure_objective", lambda *_: True)
wait = lambda: (print("waits", flush=True), time.sleep(60))
at(*{moment}, lambda: {action})
"""


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    folder = begin(tmp_path_factory.mktemp("whole"))
    code, _, err = train(server, folder).end()
    assert code == 0, err
    return folder


def begin(parent):
    (parent / "recipe.toml").write_text(RECIPE)
    return parent / "run"


def start(server, folder, moment, action, *overrides):
    return train(server, folder, *overrides, code=AT.replace("{moment}", moment).replace("{action}", action))


def must_have_stopped(run, *, code=143, step, owed=False):
    found, out, err = run.end()
    before = ", before its measurement was done" if owed else ""
    assert found == code, err
    assert out.replace("waits\n", "") == ""
    assert err.splitlines()[-1].startswith(
        f"refseg: stopped after step {step} of 6{before}; the state is saved"
    )
    assert "Traceback" not in err
    assert err.count("refseg: asked to stop") <= 1


def wait_until_it_waits(run):
    end = time.monotonic() + 60
    while "waits" not in run.out.read_text():
        assert run.is_running() and time.monotonic() < end, run.err.read_text()
        time.sleep(0.01)


def processes_of(run):
    """The processes of the run's session that are alive."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *_ = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(session) == run.pid and state != "Z":
            found.append(place.parent.name)
    return found


def must_leave_none(run, seconds=10):
    end = time.monotonic() + seconds
    while processes_of(run):
        assert time.monotonic() < end, f"still there: {processes_of(run)}"
        time.sleep(0.05)


def test_requests_at_every_moment_save_and_the_run_goes_on_exactly(tmp_path, server, whole):
    folder = begin(tmp_path)
    must_have_stopped(start(server, folder, "in_step(1)", "ask(signal.SIGINT, 2)"), code=130, step=1)
    must_have_stopped(start(server, folder, "in_saving(2)", "ask()"), step=2)
    must_have_stopped(start(server, folder, "in_step(3)", "ask(signal.SIGHUP)"), code=129, step=3)
    must_have_stopped(start(server, folder, "in_step(4)", "ask()"), step=4, owed=True)
    run = start(server, folder, "in_measuring", "wait()")  # which may take long, and is left at once
    wait_until_it_waits(run)
    os.kill(run.pid, signal.SIGTERM)
    began = time.monotonic()
    must_have_stopped(run, step=4, owed=True)
    assert time.monotonic() - began < 20
    code, _, err = start(server, folder, "in_step(6)", "signal.signal(signal.SIGHUP, signal.SIG_IGN)").end()
    assert code == 0, err
    must_be_equal(folder, whole)


def test_a_kill_in_every_gap_between_two_writes_changes_nothing(tmp_path, server, whole):
    (_, best), *_ = torch.load(whole / "state.pt", weights_only=True)["kept"]["ranking"]
    measured = "(checkpointing, 'save_state', lambda folder, values: values['step'] == 4 and not values['owes_measurement'])"
    gaps = {
        2: ["in_saving(2)", "before('last.safetensors', 2)"],
        4: ["before('last.safetensors', 4)", measured],  # the measurement is in the log, and not in the state
        6: ["before('last.safetensors', 6)"],
    }
    gaps[best].append(f"before('best.safetensors', {best})")
    folder = begin(tmp_path)
    for gap in (*gaps[2], *gaps[4], *gaps[6]):
        code, _, err = start(server, folder, gap, "ask(signal.SIGKILL)").end()
        assert code == -signal.SIGKILL, f"{gap}: {err}"
    code, _, err = train(server, folder).end()
    assert code == 0, err
    must_be_equal(folder, whole)


def test_a_request_at_the_end_finds_the_run_finished(tmp_path, server):
    folder = begin(tmp_path)
    run = start(server, folder, "in_step(6)", "ask()", "run.evaluate_examples=0")
    code, out, err = run.end()
    assert code == 0, err
    assert out.strip() == str(folder / "last.safetensors")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc for processes")
def test_a_second_request_ends_a_run_that_is_stuck_and_its_workers(tmp_path, server):
    run = start(server, begin(tmp_path), "in_step(3)", "wait()", "data.workers=1")
    wait_until_it_waits(run)
    assert len(processes_of(run)) > 1
    os.kill(run.pid, signal.SIGTERM)
    time.sleep(signals.SAME_REQUEST_SECONDS + 0.3)
    assert run.is_running()
    os.kill(run.pid, signal.SIGTERM)
    code, _, err = run.end(10)
    assert code == 143, err
    assert err.splitlines()[-1] == "refseg: left at once; the last saved state is whole, go on with --resume"
    must_leave_none(run)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc for processes")
def test_a_request_to_the_whole_group_lets_workers_finish_the_step(tmp_path, server, whole):
    folder = begin(tmp_path)
    run = start(server, folder, "in_step(3)", "os.killpg(0, signal.SIGTERM)", "data.workers=2")
    must_have_stopped(run, step=3)
    must_leave_none(run)
    run = start(server, folder, "in_step(5)", "wait()", "data.workers=1")
    wait_until_it_waits(run)
    os.kill(run.pid, signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    must_leave_none(run)
    code, _, err = train(server, folder).end()
    assert code == 0, err
    must_be_equal_but_workers(folder, whole)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked.number == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_part_that_may_be_left_is_left_at_the_request_or_not_begun():
    with Interruption() as asked:
        with pytest.raises(Interrupted, match="gone") as left, asked.at_once("gone"):
            signal.raise_signal(signal.SIGTERM)
        assert left.value.exit_code == 143
    with Interruption() as asked:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="gone"), asked.at_once("gone"):
            raise AssertionError("it was begun after a request")


def test_handlers_come_back_and_other_threads_are_left_alone():
    before = [signal.getsignal(number) for number in signals.REQUESTS]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in signals.REQUESTS] == before
    threads = threading.active_count()
    heard = []
    other = threading.Thread(target=lambda: heard.append(Interruption().__enter__().number))
    other.start()
    other.join()
    assert heard == [0]
    assert threading.active_count() <= threads
