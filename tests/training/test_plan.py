"""A plan tells what the run would be, and leaves nothing behind."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput
from refseg.training import plan as planning
from refseg.training.dry_run import DryRunCost, MemoryTooSmall
from refseg.training.plan import format_duration, format_plan, format_size, make_plan
from refseg.training.recipe import run_from_values
from refseg.training.resources import MemoryRoom
from training.recipes import made_data

CPU = torch.device("cpu")
GB = 10**9

load_verbs()


def run_of(**sections):
    values = {
        "name": "planned",
        "family": "scout",
        "variant": "debug",
        "data": {"name": "scenes", "size": 64, "phrases": 1},
        "optimizer": {"lr": 1e-3, "accumulate": 2},
        "schedule": {"warmup_steps": 10},
        "run": {
            "steps": 1000,
            "batch_size": 4,
            "evaluate_every": 300,
            "evaluate_examples": 8,
            "save_every": 250,
        },
    }
    for key, section in sections.items():
        values[key] = values.get(key, {}) | section if isinstance(section, dict) else section
    return run_from_values(values, source="test")


def rehearsed(**more):
    """What a rehearsal could have found."""
    values = {
        "steps": 2,
        "compute_seconds": 1.0,
        "batch_seconds": 0.4,
        "evaluation_seconds": 0.5,
        "save_seconds": 3.0,
        "start_bytes": GB // 2,
        "peak_bytes": 2 * GB,
        "workers_bytes": 0,
        "device_peak_bytes": None,
        "state_bytes": 3 * GB,
        "checkpoint_bytes": GB,
        "canvas": (4, 1, 3, 64, 64),
        "room": MemoryRoom("cpu", 10 * GB, 16 * GB),
    }
    return DryRunCost(**values | more)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A way to plan with a rehearsal of given numbers."""

    def plan(run=None, folder=None, **more):
        monkeypatch.setattr(planning, "dry_run", lambda *_: rehearsed(**more))
        monkeypatch.setattr(planning, "free_disk", lambda folder: 8 * GB)
        return make_plan(run or run_of(), folder or tmp_path / "run", CPU)

    return plan


def test_amounts_are_those_of_the_recipe(planned):
    amounts = planned().amounts
    assert (amounts.examples_per_step, amounts.steps, amounts.warmup_steps) == (8, 1000, 10)
    assert (amounts.examples, amounts.epochs) == (None, None)
    assert (amounts.evaluations, amounts.evaluation_examples, amounts.saves) == (
        4,
        8,
        7,
    )  # 300, 600, 900 and the end, each after a save; 250, 500 and 750


def test_a_stored_set_has_examples_and_epochs(planned, tmp_path):
    made = made_data(tmp_path / "made", count=6)
    data = {"name": str(made), "size": None, "evaluate_split": "train"}
    plan = planned(run_of(data=data, run={"steps": "4 epochs", "batch_size": 2, "evaluate_every": "1 epoch"},
                          optimizer={"accumulate": 1}, schedule={"warmup_steps": 0}))  # fmt: skip
    amounts = plan.amounts
    assert (amounts.examples, amounts.steps, amounts.epochs, amounts.evaluations) == (6, 12, 4.0, 4)
    assert "6 examples; 2 a step (batches of 2)" in format_plan(plan)
    assert "12 steps, 4.0 epochs, cosine schedule; 4 evaluations of 6 examples" in format_plan(plan)


def test_parts_and_groups_count_every_parameter_once(planned):
    plan = planned(run_of(optimizer={"rules": [{"pattern": "^stages", "trained": False}]}))
    frozen = [part.name for part in plan.parts if part.frozen]
    assert frozen == ["stages"]
    assert sum(part.trained for part in plan.parts) == sum(group.parameters for group in plan.groups)
    assert not any("stages" in group.parts for group in plan.groups)
    assert min(group.lr for group in plan.groups) == 1e-3
    assert len({group.lr for group in plan.groups}) > 1  # the family's rules


def test_without_workers_computing_and_preparing_take_turns(planned):
    hours = planned().hours
    assert hours.step_seconds == pytest.approx(1.0 + 2 * 0.4)
    assert hours.steps == pytest.approx(1000 * 1.8 / 3600)
    assert hours.evaluations == pytest.approx((4 * 8 + 8) * 0.5 / 3600)  # once more for the model card
    assert hours.saves == pytest.approx((7 + 4) * 3.0 / 3600)  # once more where a measurement is the best
    assert hours.waiting == pytest.approx(0.8 / 1.8)


@pytest.mark.parametrize(("batch_seconds", "step"), [(0.4, 1.0), (5.0, 5.0)])
def test_workers_overlap_with_steps_and_the_slower_half_counts(planned, batch_seconds, step):
    plan = planned(run_of(data={"workers": 2}), batch_seconds=batch_seconds)
    assert plan.hours.step_seconds == pytest.approx(step)


def test_memory_is_what_is_held_and_the_rest_of_the_peak(planned):
    memory = planned().memory
    assert memory.peak == memory.needed == 2 * GB
    assert memory.activations == 2 * GB - GB // 2 - memory.held.total
    assert memory.fits is True


def test_a_run_without_measurements_is_saved_when_the_recipe_says_and_at_its_end(planned):
    plan = planned(run_of(run={"evaluate_examples": 0, "save_every": 300}))
    assert plan.amounts.saves == 4
    assert plan.hours.saves == pytest.approx(4 * 3.0 / 3600)


def test_processes_that_exchange_gradients_hold_them_twice(planned, monkeypatch):
    alone = planned().memory
    monkeypatch.setattr("refseg.distributed.world_size", lambda: 2)
    plan = planned()
    assert plan.memory.buckets == plan.memory.held.gradients == alone.held.gradients > 0
    assert plan.memory.peak == alone.peak + plan.memory.buckets
    assert "gradients, to exchange them" in format_plan(plan)
    assert planned(run_of(run={"sharding": "full"})).memory.buckets == 0
    assert alone.buckets == 0


def test_what_a_launcher_asks_for_against_the_recipe_is_refused_by_the_plan_too(planned, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InvalidInput, match="accelerate launch asks for bf16"):
        planned()


def test_workers_come_on_top_of_the_process_itself(planned):
    plan = planned(workers_bytes=GB)
    assert plan.memory.peak == 3 * GB
    assert re.search(r"workers, beside what they share +1\.00 GB", format_plan(plan))


def test_memory_that_does_not_suffice_is_told_with_advice(planned):
    plan = planned(room=MemoryRoom("cpu", GB, 16 * GB, "control group"))
    assert plan.memory.fits is False
    told = format_plan(plan)
    assert (
        "does NOT fit: 2.00 GB are needed, and cpu has 1.00 GB free of 16.00 GB by its control group" in told
    )
    assert "try: run.batch_size=2 optimizer.accumulate=4 makes the same steps" in told


def test_advice_comes_before_memory_is_full(planned):
    assert planned(room=MemoryRoom("cpu", int(2.1 * GB), 16 * GB)).advice
    assert not planned(room=MemoryRoom("cpu", int(2.5 * GB), 16 * GB)).advice


def test_a_step_that_memory_is_too_small_for_is_a_finding_and_no_failure(planned, monkeypatch, tmp_path):
    def fail(*_):
        raise MemoryTooSmall("memory ran out in the first steps")

    monkeypatch.setattr(planning, "dry_run", fail)
    plan = make_plan(run_of(), tmp_path / "run", CPU)
    assert plan.trouble == "memory ran out in the first steps"
    assert any(line.startswith("run.batch_size=2") for line in plan.advice)
    assert "one step does not fit: memory ran out in the first steps" in format_plan(plan)


def test_the_disk_needs_room_for_a_file_beside_the_one_it_replaces(planned):
    plan = planned()
    assert plan.disk.files == (3 + 2 * 1) * GB  # the state, the last checkpoint and the best
    assert plan.disk.needed == (5 + 3) * GB
    assert "8.00 GB free, enough" in format_plan(plan)
    assert "NOT enough" in format_plan(planned(state_bytes=4 * GB))


def test_plain_data_holds_the_sums(planned):
    record = json.loads(json.dumps(planned().record()))
    assert record["memory"]["needed"] == 2 * GB
    assert record["hours"]["total"] == pytest.approx((1000 * 1.8 + 5 * 8 * 0.5 + 11 * 3.0) / 3600)
    assert record["rehearsal"]["steps"] == 2


def test_planning_draws_nothing_and_writes_nothing(planned, tmp_path):
    states = [torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]
    planned()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_run_and_absent_data_are_one_sentence(tmp_path):
    with pytest.raises(InvalidInput, match="scout names no blocks"):
        make_plan(run_of(family="scout", run={"checkpoint_activations": True}), tmp_path, CPU)
    values = run_of().model_dump(mode="json")
    values["data"] |= {"name": str(tmp_path / "absent.jsonl"), "size": None, "phrases": None}
    with pytest.raises(InvalidInput, match=r"absent\.jsonl"):
        make_plan(run_from_values(values, source="test"), tmp_path, CPU)


@pytest.mark.parametrize(
    ("hours", "told"), [(0.01, "36s"), (0.5, "30m"), (3.25, "3h15m"), (50, "2d02h"), (1.5, "1h30m")]
)
def test_durations_are_told_as_people_do(hours, told):
    assert format_duration(hours) == told


def test_sizes_are_told_as_people_do():
    assert [format_size(n) for n in (50_000, 99_900_000, 2_345_000_000)] == ["0.1 MB", "99.9 MB", "2.35 GB"]


def refseg(*arguments):
    result = CliRunner().invoke(app, ["train", "--device", "cpu", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


SMALL = ["scout/scenes", "init=", "variant=debug", "run.steps=6", "run.batch_size=2", "schedule.warmup_steps=0",
         "run.precision=float32", "data.workers=0", "run.evaluate_examples=2"]  # fmt: skip


def test_a_plan_without_a_measurement_tells_what_needs_no_step(tmp_path):
    told = refseg(*SMALL, "--plan", "--no-measure", "--out", tmp_path / "run").stdout
    assert told.startswith("scout debug, from scratch; objective phrases; float32 on cpu\n")
    assert re.search(r"^all parameters +0\.\d\d M +-$", told, re.MULTILINE)
    assert (
        "6 steps, cosine schedule; 1 evaluation of 2 examples, and of 2 examples for the model card; 1 save"
        in told
    )
    assert "time: not measured" in told
    assert list(tmp_path.iterdir()) == []


def test_real_steps_are_made_in_a_process_of_their_own_and_leave_nothing(tmp_path):
    plan = json.loads(refseg(*SMALL, "--plan", "--json", "--out", tmp_path / "run").stdout)
    assert list(tmp_path.iterdir()) == []
    assert plan["rehearsal"]["canvas"][:3] == [2, 1, 3]
    assert plan["hours"]["step_seconds"] > 0
    assert plan["rehearsal"]["evaluation_seconds"] > 0
    held = plan["memory"]["held"]
    assert plan["disk"]["state"] >= held["weights"] + held["optimizer"] + held["average"]
    assert plan["memory"]["peak"] == plan["rehearsal"]["peak_bytes"] > held["weights"]


REAL = """
import sys
from refseg.cli import main
from refseg.evaluation.bench import peak_bytes
sys.argv = ["refseg", "train", "--device", "cpu", *sys.argv[1:]]
try:
    main()
finally:
    print(peak_bytes())
"""


def test_the_planned_peak_of_memory_is_that_of_the_run(tmp_path):
    many = [*SMALL, "run.batch_size=24", "data.phrases=4"]
    plan = json.loads(refseg(*many, "--plan", "--json", "--out", tmp_path / "run").stdout)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", REAL, *many, "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    real, start = int(done.stdout.split()[-1]), plan["memory"]["start"]
    # What the run itself takes, without Python and torch, which would hide a wrong estimate.
    assert plan["memory"]["peak"] - start == pytest.approx(real - start, rel=0.2)


def test_what_a_step_stumbles_over_is_told_as_by_the_run(tmp_path):
    with pytest.raises(InvalidInput, match="raise num_nouns"):
        refseg("scout/naming", *SMALL[2:], "--plan", "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_plan_need_a_plan():
    with pytest.raises(InvalidInput, match="give --plan with them"):
        refseg(*SMALL, "--json")
