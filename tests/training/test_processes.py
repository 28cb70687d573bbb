"""Several processes train what one would with batches as large, leave one run, and go on in any number that fits."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import refseg
from refseg.errors import InvalidInput
from refseg.training.checkpointing import regroup
from refseg.training.checks import check_launcher
from refseg.training.recipe import run_from_values
from training.together import run_job

STEPS = 4
RECIPE = f"""
family = "lgformer"
variant = "debug"
model = {{backbone = {{drop_path = 0.0}}}}
seed = 3
[data]
name = "scenes"
phrases = 1
size = 32
[optimizer]
lr = 1e-3
clip_norm = 0.1
[schedule]
kind = "constant"
[run]
steps = {STEPS}
batch_size = 4
evaluate_examples = 0
log_every = 1
"""
SHARED = ["run.batch_size=2"]
SHARDED = [*SHARED, "run.sharding=full", "run.ema=0.9", "run.evaluate_examples=2"]
HERE = Path(__file__).parent
TOGETHER = str(HERE / "together.py")


def environment():
    return os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "OMP_NUM_THREADS": "1"}


def launched(processes, *command):
    """What `torchrun` leaves: exit code, stdout, stderr."""
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*head, *command], env=environment(), capture_output=True, text=True, timeout=1200, check=False
    )


def logged(place):
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def column(place, key="loss"):
    return [line[key] for line in logged(place)]


def saved(place):
    return torch.load(place / "state.pt", weights_only=True)


class Runs:
    """Folders of runs by name, and the jobs that make them."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "recipe.toml").write_text(RECIPE)
        vpd = RECIPE.replace("lgformer", "vpd").replace("model = {backbone = {drop_path = 0.0}}\n", "")
        (folder / "vpd.toml").write_text(vpd)

    def job(self, name, overrides=(), recipe="recipe", **more):
        place = str(self.folder / name)
        return {
            "recipe": str(self.folder / f"{recipe}.toml"),
            "folder": place,
            "overrides": [*overrides],
            **more,
        }

    def alone(self, name, *given, **more):
        assert run_job(self.job(name, *given, **more)) == ""

    def launch(self, processes, *jobs):
        path = self.folder / f"jobs{processes}.json"
        path.write_text(json.dumps(jobs))
        done = launched(processes, TOGETHER, str(path))
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    def __getitem__(self, name):
        return self.folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("processes"))
    made.alone("one")
    made.alone("one then two", stop_after=2)
    made.alone("three", ["run.batch_size=3"], stop_after=1)
    made.launch(4, made.job("four then two", ["run.batch_size=1"], stop_after=2))
    few = ["run.steps=2", *SHARED, "run.sync_batch_norm=true"]
    made.told = made.launch(
        2,
        made.job("two", SHARED),
        made.job("two added", ["run.batch_size=1", "optimizer.accumulate=2"]),
        made.job("two sharded", SHARDED),
        made.job("sharded and stopped", SHARDED, stop_after=2),
        made.job("sharded and stopped", SHARDED),
        made.job("sharded and added", ["run.batch_size=1", "optimizer.accumulate=2", "run.sharding=full"]),
        made.job("four then two", ["run.batch_size=1"]),
        made.job("one then two"),
        made.job("two then one", SHARED, stop_after=2),
        made.job("sharded then one", SHARDED, stop_after=2),
        made.job("three", ["run.batch_size=3"], says=str(made.folder / "refusal")),
        made.job("vpd two", few, recipe="vpd"),
        made.job("vpd sharded", [*few, "run.sharding=full"], recipe="vpd"),
    )
    made.alone("two then one", SHARED)
    made.alone("sharded then one", SHARDED)
    return made


def apart(one, other):
    """The share of weights that two states hold differently, by more than a fiftieth of what a step moves them.

    Gradients are summed in another order, and Adam makes whole steps of tiny gradients whose sign is in doubt: a few
    weights differ by steps, most by nothing that counts.
    """
    one, other = saved(one)["model"], saved(other)["model"]
    assert one.keys() == other.keys()
    parts = [(one[n] - other[n]).abs().flatten() for n in one if one[n].is_floating_point()]
    return float((torch.cat(parts) > 2e-5).float().mean())


@pytest.mark.parametrize("name", ["two", "two added", "two sharded", "sharded and added"])
def test_two_processes_learn_what_one_does(runs, name):
    assert column(runs[name]) == pytest.approx(column(runs["one"]), rel=1e-4)
    assert column(runs[name], "norm") == pytest.approx(column(runs["one"], "norm"), rel=1e-3)
    assert apart(runs[name], runs["one"]) < 0.05


@pytest.mark.parametrize(
    "name", ["one then two", "four then two", "two then one", "sharded then one", "sharded and stopped"]
)
def test_a_run_goes_on_in_another_number_of_processes(runs, name):
    assert column(runs[name]) == pytest.approx(column(runs["one"]), rel=1e-4)
    assert apart(runs[name], runs["one"]) < 0.05


def test_a_sharded_run_that_stopped_ends_like_one_that_did_not(runs):
    one, other = saved(runs["two sharded"]), saved(runs["sharded and stopped"])
    for part in ("model", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_checkpoints_and_states_of_a_sharded_run_are_those_of_any(runs):
    one, other = saved(runs["one"]), saved(runs["two sharded"])
    assert {n: v.shape for n, v in one["model"].items()} == {n: v.shape for n, v in other["model"].items()}
    moments = [{n: v.shape for n, v in state["optimizer"]["state"][0].items()} for state in (one, other)]
    assert moments[0] == moments[1]
    last = load_file(runs["two sharded"] / "last.safetensors")
    assert all(torch.equal(last[name], value) for name, value in other["average"].items())
    assert last.keys() == load_file(runs["one"] / "last.safetensors").keys()


def test_vpd_sharded_learns_what_vpd_whole_does(runs):
    assert column(runs["vpd sharded"]) == pytest.approx(column(runs["vpd two"]), rel=1e-5)
    assert column(runs["vpd sharded"], "norm") == pytest.approx(column(runs["vpd two"], "norm"), rel=1e-4)


def test_a_number_of_processes_that_does_not_fit_is_refused_by_the_first_alone(runs):
    told, silent = ((runs.folder / f"refusal.{rank}").read_text() for rank in (0, 1))
    assert "3 examples a step, which 2 cannot share evenly; start 1 or 3 processes" in told
    assert silent == "refused"


def test_the_difference_is_said_in_one_line(runs):
    line = "saved by 4 processes, goes on with 2: 4 examples a step as before, in batches of 2 x 1 a process"
    assert runs.told.stderr.count(line) == 1


def test_random_states_of_every_process_are_kept(runs):
    states = saved(runs["two"])["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


def recipe_of(**run):
    values = {"family": "lgformer", "variant": "debug", "data": {"name": "scenes"}, "optimizer": {"lr": 0.1}}
    return run_from_values({**values, "run": {"steps": 1, "batch_size": 2, **run}}, source="test")


def test_a_recipe_that_makes_up_the_step_itself_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 2)
    state = {"processes": 8, "examples": 8}
    changed, line = regroup(recipe_of(batch_size=4), state)
    assert (changed.run.batch_size, changed.optimizer.accumulate) == (4, 1)
    assert "goes on with 2" in line
    changed, _ = regroup(recipe_of(batch_size=1), state)
    assert (changed.run.batch_size, changed.optimizer.accumulate) == (4, 1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "accelerate launch asks for bf16"),
        ({"ACCELERATE_USE_FSDP": "true"}, "add run.sharding=full"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "add run.compile=true"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "4 batches a step"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "starts one process, whatever"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which refseg does not use"),
    ],
)
def test_what_accelerate_is_told_against_the_recipe_is_refused(monkeypatch, asked, told):
    check_launcher(recipe_of())
    for key, value in asked.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InvalidInput, match=told):
        check_launcher(recipe_of())


def test_what_accelerate_is_told_with_the_recipe_is_taken(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_launcher(recipe_of(precision="bfloat16", sharding="full"))


def test_several_processes_without_accelerate_are_told_how_to_get_it(monkeypatch):
    from refseg.training import parallel

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InvalidInput, match=r"pip install 'refseg\[train\]', or start one process"):
        parallel._accelerator(torch.nn.Identity(), recipe_of(), torch.device("cpu"))


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A folder with a recipe, and a run of it as a user starts one."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder, launched(2, "-m", "refseg", "train", *words(folder, "run"))


def words(folder, name):
    return [str(folder / "recipe.toml"), "run.steps=1", "--out", str(folder / name), "--device", "cpu"]


def test_torchrun_starts_a_run_of_which_the_first_process_speaks(typed):
    folder, done = typed
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == str(folder / "run" / "last.safetensors")
    assert done.stderr.count("step 1/1") == 1
    assert "8 a step" in done.stderr
    assert {"run.toml", "log.jsonl", "state.pt", "last.safetensors"} <= {
        p.name for p in (folder / "run").iterdir()
    }


def test_a_folder_that_holds_a_run_ends_every_process_at_once(typed):
    folder, _ = typed
    began = time.monotonic()
    done = launched(2, "-m", "refseg", "train", *words(folder, "run"))
    assert done.returncode != 0
    assert done.stderr.count("holds a run; go on with it by --resume") == 1
    assert "exitcode  : 2" in done.stderr
    assert f"{Path(refseg.__file__).parent}{os.sep}" not in done.stderr, "a traceback of ours"
    assert time.monotonic() - began < 300


def test_accelerate_launch_starts_a_sharded_run(typed):
    folder, _ = typed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    head = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    head += [
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    head += ["--main_process_port", port, "-m", "refseg", "train"]
    done = subprocess.run(
        [*head, *words(folder, "sharded"), "run.sharding=full"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == str(folder / "sharded" / "last.safetensors")
    # All that the launcher changes is how weights are held.
    assert column(folder / "sharded") == pytest.approx(column(folder / "run"), rel=1e-5)


def test_another_number_of_examples_a_step_is_refused(tmp_path):
    job = {"recipe": str(tmp_path / "recipe.toml"), "folder": str(tmp_path / "run")}
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("lgformer", "scout").replace("model =", "# model ="))
    assert run_job({**job, "overrides": ["run.batch_size=2"], "stop_after": 1}) == ""
    told = run_job({**job, "overrides": ["run.batch_size=3"]})
    assert "run.batch_size 3 x optimizer.accumulate 1 x 1 process are 3 examples a step" in told
    assert run_job({**job, "overrides": ["run.batch_size=1", "optimizer.accumulate=2"]}) == ""
    assert len(logged(tmp_path / "run")) == STEPS
