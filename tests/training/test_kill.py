"""A run that is killed without warning again and again, also while it saves, ends as one that never was."""

import json
import os
import random
import signal
import time

import pytest
import torch

from training.recipes import made_data

NUM_KILLS = 16
STEPS = 48
RECIPE = f"""
family = "scout"
variant = "debug"
objective = "naming"
model = {{num_nouns = 192, num_colours = 16}}
seed = 3
[data]
name = "scenes"
phrases = 0
flip = 0.5
[optimizer]
lr = 3e-3
clip_norm = 1.0
accumulate = 2
[schedule]
warmup_steps = 3
[run]
steps = {STEPS}
batch_size = 2
ema = 0.7
evaluate_every = 3
evaluate_examples = 4
save_every = 2
keep_best = 2
patience = 40
log_every = 1
final_protocols = "none"
"""
# A disk on which a file stays half written for long enough to be seen.
SLOW_DISK = """
import os, time
sync = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.05), sync(descriptor))[1]
"""
# Dropout, clips, and two sets that are dealt out by shares.
CLIPS = """
family = "referformer"
variant = "debug"
model = {frame = {size = 64}}
seed = 5
[data]
evaluate_name = "FOLDER/one/made.jsonl"
evaluate_split = "train"
[[data.sets]]
name = "FOLDER/one/made.jsonl"
share = 1
sample = {rule = "drawn", frames = 2}
[[data.sets]]
name = "FOLDER/two/made.jsonl"
share = 2
sample = {rule = "drawn", frames = 2}
[optimizer]
lr = 1e-3
clip_norm = 0.1
accumulate = 2
[run]
steps = 8
batch_size = 1
evaluate_every = 4
evaluate_examples = 2
save_every = 2
log_every = 1
final_protocols = "none"
"""


def train(server, folder, *arguments, told=None, **more):
    goes_on = ["--resume"] if (folder / "run.toml").exists() else ["--force"]
    recipe = folder.parent / "recipe.toml"
    return server.start(
        "train",
        recipe,
        "--out",
        folder,
        "--device",
        "cpu",
        *goes_on,
        *arguments,
        told=told or folder.parent,
        **more,
    )


def uninterrupted(server, folder, recipe):
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "recipe.toml").write_text(recipe)
    code, _, err = train(server, folder).end()
    assert code == 0, err
    return folder


def logged(folder):
    """The lines of the log without what depends on the clock; of a run that goes on, the whole ones."""
    try:
        lines = (folder / "log.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    told = [json.loads(line) for line in lines]
    return [{key: value for key, value in line.items() if key not in ("seconds", "waiting")} for line in told]


def must_be_equal(folder, other):
    for name in ("run.toml", *(path.name for path in other.glob("*.safetensors"))):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert logged(folder) == logged(other)
    must_be_same_state(*(torch.load(place / "state.pt", weights_only=True) for place in (folder, other)))
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}


def must_be_same_state(one, other, where="state"):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            must_be_same_state(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            must_be_same_state(*pair, f"{where}.{number}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, where


def moments(draws):
    """What each kill waits for, so that every one of these is met: [(name, function of folder -> now?)]."""

    def writing(kind):
        return lambda folder: any(path.name.startswith(f".{kind}") for path in folder.glob(".*.part*"))

    def after(seconds):
        end = time.monotonic() + seconds
        return lambda folder: time.monotonic() > end

    kinds = ["state", "last", "best", "log"]
    aimed = [(f"while {kind} is written", lambda kind=kind: writing(kind)) for kind in kinds * 2]
    delays = [draws.uniform(0.0, 1.0) for _ in range(4)]
    aimed += [(f"after {delay:.2f} s", lambda delay=delay: after(delay)) for delay in delays]
    aimed += [(f"{count} steps on", lambda count=count: steps_on(count)) for count in (1, 1, 2, 3)]
    draws.shuffle(aimed)
    return aimed


def steps_on(count):
    """Whether the run has gone so many steps since this was first asked."""
    first = []

    def come(folder):
        now = max((line["step"] for line in logged(folder)), default=0)
        first.append(now)
        return now >= first[0] + count

    return come


def kill_when(run, folder, is_now, patience=60):
    """Kills the run then; or some steps on, should the moment not come or be over before it was seen."""
    end = time.monotonic() + patience
    is_missed = steps_on(8)
    while run.is_running() and not is_now(folder) and not is_missed(folder):
        assert time.monotonic() < end, run.err.read_text()
        time.sleep(0.004)
    was_running = run.is_running()
    os.kill(run.pid, signal.SIGKILL)  # not yet reaped, so the number is still its own
    code, _, err = run.end()
    assert code == -signal.SIGKILL if was_running else code == 0, err
    return was_running


@pytest.mark.slow
def test_dropout_and_several_sets_go_on_exactly_after_kills(tmp_path, server):
    for name in ("one", "two"):
        made_data(tmp_path / name, frames=4, height=40, width=48)
    whole = uninterrupted(server, tmp_path / "whole" / "run", CLIPS.replace("FOLDER", str(tmp_path)))
    folder = tmp_path / "killed" / "run"
    folder.mkdir(parents=True)
    (folder.parent / "recipe.toml").write_text(CLIPS.replace("FOLDER", str(tmp_path)))
    for step in (1, 3, 4, 5, 7):
        run = train(server, folder)

        def is_there(at, step=step):
            return max((line["step"] for line in logged(at)), default=0) >= step

        assert kill_when(run, folder, is_there)
    assert train(server, folder).end()[0] == 0
    must_be_equal(folder, whole)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path, server, seed):
    draws = random.Random(seed)
    whole = uninterrupted(server, tmp_path / "whole" / "run", RECIPE)
    folder = tmp_path / "killed" / "run"
    folder.mkdir(parents=True)
    (folder.parent / "recipe.toml").write_text(RECIPE)
    told = []
    for name, moment in moments(draws):
        run = train(server, folder, f"data.workers={draws.choice([0, 0, 1])}", code=SLOW_DISK)
        was_running = kill_when(run, folder, moment())
        step = max((line["step"] for line in logged(folder)), default=0)
        halves = sorted(path.name.split(".")[1] for path in folder.glob(".*.part*"))
        told.append(f"{name}: at step {step}, half written {halves}")
        print(told[-1])
        assert was_running, "\n".join(told)
    assert len(told) == NUM_KILLS
    for kind in ("state", "last", "best"):
        assert any(kind in line.partition("half written")[2] for line in told), "\n".join(told)
    code, _, err = train(server, folder, "data.workers=0").end()
    assert code == 0, err
    (_, best), *_ = torch.load(whole / "state.pt", weights_only=True)["kept"]["ranking"]
    assert best > 3, "the best checkpoint must have been replaced, or its replacement is untested"
    must_be_equal_but_workers(folder, whole)


def must_be_equal_but_workers(folder, whole):
    """run.toml tells the workers the run began with."""
    (folder / "run.toml").write_bytes((whole / "run.toml").read_bytes())
    must_be_equal(folder, whole)
