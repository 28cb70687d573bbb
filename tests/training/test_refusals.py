"""What cannot be trained as asked is refused before anything is read or written; what is doubtful is told."""

import pytest
import torch

from refseg.errors import InvalidInput, UnknownName
from refseg.models import catalog
from refseg.training import checks
from refseg.training.checks import check_memory, check_possible, find_doubts, memory_advice
from refseg.training.optimizer import build_optimizer
from refseg.training.recipe import run_from_values
from refseg.training.resources import MemoryRoom, training_bytes

CPU = torch.device("cpu")


def run_of(family="scout", **sections):
    values = {
        "family": family,
        "variant": "debug",
        "data": {"name": "scenes"},
        "optimizer": {"lr": 1e-3},
        "schedule": {},
        "run": {"steps": 10, "batch_size": 4},
    }
    for key, section in sections.items():
        values[key] = values.get(key, {}) | section if isinstance(section, dict) else section
    return run_from_values(values, source="test")


def test_an_ordinary_run_is_possible_and_beyond_doubt():
    check_possible(run_of(), CPU)
    assert find_doubts(run_of(), CPU) == []


@pytest.mark.parametrize(
    ("run", "error", "said"),
    [
        (run_of("scuot"), UnknownName, "did you mean 'scout'"),
        (run_of(variant="bse"), UnknownName, "did you mean 'base'"),
        (run_of(objective="nameing"), UnknownName, "did you mean 'naming'"),
        (run_of(objective="naming", loss={"dice_weight": 2.0}), InvalidInput, r"\[loss\] changes dice_weight, and the objective 'naming'"),
        (run_of(objective="phrases_and_motion", loss={"dice_weight": 2.0}), InvalidInput, "leave .* out"),
        (run_of("scout", run={"checkpoint_activations": True}), InvalidInput, "scout names no blocks .* set it to false"),
        (run_of(run={"best_by": "IoU"}), InvalidInput, "run.best_by is 'IoU', and a measurement knows mIoU, oIoU"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_one_sentence(run, error, said):
    with pytest.raises(error, match=said):
        check_possible(run, CPU)


@pytest.mark.parametrize("best_by", ["oIoU", "P@0.5", "mIoU app"])
def test_scores_that_a_measurement_gives_may_choose_the_best(best_by):
    check_possible(run_of(run={"best_by": best_by}), CPU)


def test_a_run_that_is_never_measured_may_call_its_score_as_it_likes():
    check_possible(run_of(run={"best_by": "IoU", "evaluate_examples": 0}), CPU)


def test_bfloat16_is_refused_on_a_gpu_that_does_not_compute_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    run = run_of(run={"precision": "bfloat16"})
    with pytest.raises(
        InvalidInput, match=r"bfloat16, which Old GPU does not compute in; set run.precision=float16"
    ):
        check_possible(run, torch.device("cuda"))
    check_possible(run, CPU)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    run = run_of(run={"compile": True})
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match=r"torch.compile needs a C\+\+ compiler on cpu"):
        check_possible(run, CPU)
    monkeypatch.setattr(checks.shutil, "which", lambda name: f"/usr/bin/{name}")
    check_possible(run, CPU)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run_of(run={"evaluate_every": 11}), "run.evaluate_every 11 is beyond the 10 steps"),
        (run_of(run={"steps": 900, "save_every": 901}), "run.save_every 901 is beyond the 900 steps"),
        (
            run_of(schedule={"kind": "step", "drops": [5, 20, 30]}),
            "schedule.drops 20, 30 lie beyond the 10 steps",
        ),
        (run_of(schedule={"kind": "step"}), "schedule.drops is empty; the rate stays"),
        (run_of(schedule={"kind": "poly", "drops": [5]}), "do nothing in a poly schedule"),
        (run_of(run={"precision": "float16"}), "float16, which CPUs compute slowly"),
        (run_of(data={"workers": 10_000}), "data.workers is 10000, and this process may use"),
        (run_of(run={"sharding": "full"}), "one process holds all weights"),
        (run_of("vlt", data={"frames": 5}), "vlt sees every frame by itself: clips of 5 frames"),
    ],
)
def test_what_is_doubtful_is_one_sentence(run, said):
    (sentence,) = find_doubts(run, CPU)
    assert said in sentence


def test_saves_beyond_the_end_of_a_short_run_are_no_news():
    assert find_doubts(run_of(run={"steps": 499, "save_every": 500}), CPU) == []


@pytest.fixture(scope="module")
def model():
    return catalog.build("scout", "debug")


def optimizer_of(model, run):
    return build_optimizer(model, catalog.family(run.family).param_rules, run.optimizer)


def test_gradients_and_optimizer_state_larger_than_memory_are_refused_with_advice(model, monkeypatch):
    run = run_of(run={"ema": 0.9})
    optimizer = optimizer_of(model, run)
    held = training_bytes(model, optimizer, is_averaged=True)
    coming = held.gradients + held.optimizer
    monkeypatch.setattr(
        checks, "memory_on", lambda device: MemoryRoom("cpu", coming - 1, 2 * coming, "control group")
    )
    with pytest.raises(InvalidInput) as error:
        check_memory(model, optimizer, run, CPU)
    assert (
        "GB free in its control group; --anyway tries all the same, or: run.batch_size=2 optimizer.accumulate=2"
        in str(error.value)
    )
    monkeypatch.setattr(checks, "memory_on", lambda device: MemoryRoom("cpu", coming, 2 * coming))
    check_memory(model, optimizer, run, CPU)


def test_a_machine_that_does_not_tell_its_memory_refuses_nothing(model, monkeypatch):
    monkeypatch.setattr(checks, "memory_on", lambda device: None)
    check_memory(model, optimizer_of(model, run_of()), run_of(), CPU)


def test_advice_names_what_the_recipe_has_not_done_yet():
    most = memory_advice(run_of("lgformer", run={"ema": 0.9}), torch.device("cuda"))
    assert [line.split("=")[0].split()[0] for line in most] == [
        "run.checkpoint_activations", "run.batch_size", "run.precision", "fewer", "run.ema",
    ]  # fmt: skip
    done = {"checkpoint_activations": True, "batch_size": 1, "precision": "bfloat16"}
    assert memory_advice(run_of("lgformer", run=done), torch.device("cuda"), trained=0.1) == []


@pytest.mark.parametrize("kind", ["adamw", "adam", "keras_adam"])
def test_what_is_held_is_what_a_step_leaves(model, kind):
    run = run_of(optimizer={"kind": kind})
    optimizer = optimizer_of(model, run)
    told = training_bytes(model, optimizer, is_averaged=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert told.optimizer == sum(tensor.nbytes for tensor in kept)
    assert told.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert told.weights == told.average == sum(t.nbytes for t in model.state_dict().values())
    optimizer.zero_grad(set_to_none=True)


def test_frozen_parameters_have_no_gradient_and_no_state(model):
    run = run_of(optimizer={"rules": [{"pattern": "^stages", "trained": False}]})
    told = training_bytes(model, optimizer_of(model, run), is_averaged=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert 0 < len(trained) < len(list(model.parameters()))
    assert told.gradients == sum(p.nbytes for p in trained)
    assert told.average == 0
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def test_weights_that_are_dealt_out_are_a_part_on_each_process(model):
    held = training_bytes(model, optimizer_of(model, run_of()), is_averaged=True)
    assert held.on_each(2).total == pytest.approx(held.total / 2, abs=4)
