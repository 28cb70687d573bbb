"""Training on GPUs, and through torch.compile: the same losses, the same names of weights."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.together import run_job

RECIPE = """
family = "scout"
variant = "debug"
seed = 3
[data]
name = "scenes"
phrases = 2
size = 32
[optimizer]
lr = 1e-3
clip_norm = 1.0
[run]
steps = 4
batch_size = 2
evaluate_examples = 2
log_every = 1
"""
HERE = Path(__file__).parent


@pytest.fixture
def job(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def made(name, *overrides, **more):
        recipe, folder = str(tmp_path / "recipe.toml"), str(tmp_path / name)
        return {"recipe": recipe, "folder": folder, "overrides": list(overrides), **more}

    return made


def column(job, key="loss"):
    lines = [json.loads(line) for line in Path(job["folder"], "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def end(job):
    return load_file(Path(job["folder"], "last.safetensors"))


@pytest.mark.slow
def test_verbs_are_traced_in_training_alone(job, monkeypatch):
    """All of torch.compile but the code that it makes, which takes minutes."""
    traced = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("refseg.training.state.torch.compile", traced)
    torch._dynamo.utils.counters.clear()
    plain, compiled = job("plain", "run.steps=2"), job("compiled", "run.compile=true", "run.steps=2")
    for one in (plain, compiled):
        assert run_job(one) == ""
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 50
    assert column(compiled) == pytest.approx(column(plain), rel=1e-5)
    assert end(compiled).keys() == end(plain).keys()


def compiled_learns_the_same(job, device):
    plain, compiled = job("plain"), job("compiled", "run.compile=true")
    stopped = job("stopped", "run.compile=true", stop_after=2)
    for one in (plain, compiled, stopped, {**stopped, "stop_after": None}):
        assert run_job(one, device) == ""
    assert column(compiled) == pytest.approx(column(plain), rel=1e-4)
    assert column(stopped) == pytest.approx(column(compiled), rel=1e-4)
    assert end(compiled).keys() == end(plain).keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_verbs_learn_what_plain_ones_do(job):
    plain, compiled = job("plain", "run.steps=2"), job("compiled", "run.compile=true", "run.steps=2")
    for one in (plain, compiled):
        assert run_job(one) == ""
    assert column(compiled) == pytest.approx(column(plain), rel=1e-4)
    assert end(compiled).keys() == end(plain).keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_verbs_learn_what_plain_ones_do_on_a_gpu(job):
    compiled_learns_the_same(job, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_scales_losses_and_goes_on_with_its_scale(job):
    run, stopped = job("run", "run.precision=float16"), job("stopped", "run.precision=float16", stop_after=2)
    for one in (run, stopped, {**stopped, "stop_after": None}):
        assert run_job(one, "cuda") == ""
    states = [torch.load(Path(one["folder"], "state.pt"), weights_only=True) for one in (run, stopped)]
    assert states[0]["scaler"] == states[1]["scaler"]
    assert states[0]["scaler"]["scale"] > 1
    assert column(stopped) == pytest.approx(column(run), rel=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("more", [(), ("run.sharding=full",), ("run.precision=float16", "run.sharding=full")])
def test_two_gpus_learn_what_one_does(job, tmp_path, more):
    precision = [key for key in more if "precision" in key]
    one, two = job("one", "run.sync_batch_norm=true", *precision), job("two", "run.batch_size=1", *more)
    two["overrides"].append("run.sync_batch_norm=true")
    assert run_job(one, "cuda") == ""
    (tmp_path / "jobs.json").write_text(json.dumps([two]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "TOGETHER_DEVICE": "cuda"}
    subprocess.run(
        [*command, str(HERE / "together.py"), str(tmp_path / "jobs.json")],
        env=source,
        check=True,
        timeout=600,
    )
    assert column(two) == pytest.approx(column(one), rel=1e-2 if precision else 1e-3)
    assert end(two).keys() == end(one).keys()
