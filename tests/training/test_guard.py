"""A number that is none ends a run before it moves a weight, and what led to it can be looked at."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from refseg.training import finite_check, loop
from refseg.training.batches import batches
from refseg.training.checkpointing import tidy_and_load_state
from refseg.training.data import open_training_data
from refseg.training.finite_check import MOST_OVERFLOWS, FiniteCheck, NotFinite, remove_bad_step
from refseg.training.recipe import run_from_values

CPU = torch.device("cpu")
BAD_STEP = 3
SIDE = 64


def run_of(**more):
    return run_from_values(
        {
            "name": "guarded",
            "family": "scout",
            "variant": "debug",
            "data": {"name": "scenes", "phrases": 1, "size": SIDE},
            "optimizer": {"lr": 1e-3, "clip_norm": 1.0, "accumulate": 2} | more.pop("optimizer", {}),
            "schedule": {"kind": "constant"},
            "run": {"steps": 4, "batch_size": 2, "evaluate_examples": 0, "save_every": 2, "log_every": 50}
            | more.pop("run", {}),
            **more,
        },
        source="test",
    )


def batch_of(run, number):
    """The batch that the run sees as number `number`, from 0."""
    from refseg.models import catalog

    feed = batches(open_training_data(run, SIDE), run, catalog.variant("scout", "debug").frame, start=number)
    return next(feed)


@pytest.fixture
def spoiled(monkeypatch):
    """A way to let the loss of one batch be no number."""

    def spoil(bad, make=lambda term: term * math.nan):
        build = loop.build_objective

        def built(family, run):
            objective = build(family, run)

            def broken(model, batch):
                terms = objective(model, batch)
                if torch.equal(batch.clips.pixels, bad.clips.pixels):
                    terms["dice"] = make(terms["dice"])
                return terms

            return broken

        monkeypatch.setattr(loop, "build_objective", built)

    return spoil


@pytest.fixture
def stopped(spoiled, tmp_path):
    """The folder of a run whose third step meets a bad batch, its second of two, and what was said."""
    run = run_of()
    bad = batch_of(run, 2 * (BAD_STEP - 1) + 1)
    spoiled(bad)
    (tmp_path / "run").mkdir()
    with pytest.raises(NotFinite) as error:
        loop.train(run, tmp_path / "run", device=CPU, is_quiet=True)
    return run, bad, tmp_path / "run", str(error.value)


def test_the_run_stops_at_the_step_and_says_where_its_inputs_are(stopped):
    _, _, folder, said = stopped
    assert said.startswith(
        f"dice became nan at step {BAD_STEP}; its inputs are in {folder}/bad-step-000003 (the term dice and "
    )
    assert "the state of step 2 is sound: mend the data and go on with --resume" in said
    summary = json.loads((folder / "bad-step-000003" / "step.json").read_text())
    names = [example["name"] for example in summary["batches"][1]["examples"]]
    assert f"examples {', '.join(names)})" in said
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["dice"] is None


def test_the_last_state_and_checkpoint_are_those_of_the_last_good_save(stopped):
    _, _, folder, _ = stopped
    assert tidy_and_load_state(folder)["step"] == 2
    assert all(
        t.isfinite().all() for t in load_file(folder / "last.safetensors").values() if t.is_floating_point()
    )


def test_the_kept_batch_is_the_one_that_the_network_saw(stopped):
    _, bad, folder, _ = stopped
    kept = load_file(folder / "bad-step-000003" / "batch-1.safetensors")
    assert torch.equal(kept["pixels"], bad.clips.pixels)
    assert torch.equal(kept["masks"], bad.targets.masks)


def test_the_summary_names_examples_terms_and_gradients(stopped):
    run, bad, folder, _ = stopped
    place = folder / "bad-step-000003"
    summary = json.loads((place / "step.json").read_text())
    assert summary["not_finite"] == ["dice", "norm"]
    good, broken = summary["batches"]
    assert good["gradients_not_finite"] == []
    assert broken["terms"]["dice"] == "nan"
    assert isinstance(broken["terms"]["mask"], float)
    assert broken["num_gradients_not_finite"] > 0
    assert [example["position"] for example in broken["examples"]] == [10, 11]
    assert tuple(example["phrases"][0] for example in broken["examples"]) == bad.phrases
    first = broken["examples"][0]
    pixels = np.asarray(Image.open(place / first["frames"][0]))
    examples = open_training_data(run, SIDE).sources[0].examples
    assert np.array_equal(pixels, examples[10].frames[0].permute(1, 2, 0).numpy())
    mask = np.asarray(Image.open(place / first["masks"][0][0]))
    assert set(np.unique(mask)) <= {0, 255}


def test_what_was_kept_goes_with_its_run_and_folders_of_others_stay(stopped):
    _, _, folder, _ = stopped
    (folder / "bad-step-mine").mkdir()
    remove_bad_step(folder)
    assert [path.name for path in folder.glob("bad-step*")] == ["bad-step-mine"]


def test_the_run_goes_on_once_the_cause_is_gone(stopped, monkeypatch):
    run, _, folder, _ = stopped
    monkeypatch.undo()
    loop.train(run, folder, device=CPU, is_quiet=True)
    whole = folder.parent / "whole"
    whole.mkdir()
    loop.train(run, whole, device=CPU, is_quiet=True)
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_a_gradient_that_is_none_stops_the_run_though_its_loss_is_a_number(spoiled, tmp_path):
    run = run_of()
    # The derivative of the root at zero is infinite; times zero it is no number.
    spoiled(batch_of(run, 0), lambda term: term + (term * 0).sqrt())
    with pytest.raises(
        NotFinite, match=r"norm became nan at step 1; its inputs are in .* gradients, .* nothing was saved"
    ):
        loop.train(run, tmp_path, device=CPU, is_quiet=True)
    summary = json.loads((tmp_path / "bad-step-000001" / "step.json").read_text())
    assert summary["not_finite"] == ["norm"]
    assert summary["batches"][0]["num_gradients_not_finite"] > 0


def test_weights_that_left_all_bounds_are_told_at_their_step(tmp_path):
    run = run_of(optimizer={"lr": 1e30, "clip_norm": 0.0})
    with pytest.raises(NotFinite, match=r"became (nan|inf|-inf) at step [23]; its inputs are in"):
        loop.train(run, tmp_path, device=CPU, is_quiet=True)


class Late:
    """An event of a GPU."""

    def synchronize(self):
        pass


def test_numbers_that_arrive_late_name_their_step_and_weights_that_moved_on_are_not_computed_again(
    spoiled, tmp_path, monkeypatch
):
    monkeypatch.setattr(finite_check, "_is_at_hand", lambda values: False)
    monkeypatch.setattr(finite_check, "_send", lambda values: (values, Late()))
    run = run_of()
    spoiled(batch_of(run, 0))
    with pytest.raises(
        NotFinite,
        match=r"dice became nan at step 1; its inputs are in [^;(]*bad-step-000001; nothing was saved",
    ):
        loop.train(run, tmp_path, device=CPU, is_quiet=True)
    summary = json.loads((tmp_path / "bad-step-000001" / "step.json").read_text())
    assert summary["batches"][0]["terms"] is None
    assert [example["position"] for example in summary["batches"][1]["examples"]] == [2, 3]


def test_numbers_still_on_their_way_are_waited_for_before_a_save(spoiled, tmp_path, monkeypatch):
    monkeypatch.setattr(finite_check, "_is_at_hand", lambda values: False)
    monkeypatch.setattr(finite_check, "_send", lambda values: (values, Late()))
    run = run_of()
    spoiled(batch_of(run, 2))  # of step 2, after which the run saves
    with pytest.raises(NotFinite, match="dice became nan at step 2"):
        loop.train(run, tmp_path, device=CPU, is_quiet=True)
    assert not (tmp_path / "state.pt").exists()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


class Training:
    step = 0


def test_gradients_too_large_for_float16_stop_nothing_while_some_fit():
    guard = FiniteCheck(scene=None, log=None, may_overflow=True)
    for norm in [*[math.inf] * (MOST_OVERFLOWS - 1), 1.0] * 2:
        guard.look(Training, {"mask": torch.tensor(1.0)}, torch.tensor(norm))


def test_gradients_that_never_fit_float16_stop_the_run_though_its_loss_is_a_number(tmp_path, monkeypatch):
    build = loop.build_objective

    def built(family, run):
        objective = build(family, run)

        def broken(model, batch):
            return {name: term + (term * 0).sqrt() for name, term in objective(model, batch).items()}

        return broken

    monkeypatch.setattr(loop, "build_objective", built)
    monkeypatch.setattr(finite_check, "MOST_OVERFLOWS", 3)
    with pytest.raises(
        NotFinite,
        match=r"norm became nan at step 3, with this 3 steps in a row that float16 has to skip; its inputs are in .*; "
        r"the weights of step 2 are sound: begin another run with init=.*last.safetensors in bfloat16 or float32",
    ):
        loop.train(run_of(run={"precision": "float16"}), tmp_path, device=CPU, is_quiet=True)
    assert (tmp_path / "bad-step-000003" / "step.json").exists()
