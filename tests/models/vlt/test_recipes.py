"""The published recipes, three real steps each in debug width, and what they say."""

import json

import pytest
import torch
from safetensors import safe_open

from refseg.training.optimizer import schedule_ratio
from refseg.training.recipe import packaged_recipes, read_recipe
from training.recipes import packaged, take_three_steps


@pytest.mark.parametrize("name", packaged("vlt"))
def test_a_published_recipe_trains(name, tmp_path):
    trial = take_three_steps(name, tmp_path)
    assert trial.rates == (1e-3,) * 3
    terms = [json.loads(line) for line in (trial.folder / "log.jsonl").read_text().splitlines()]
    assert all(line["penalty"] > 0 and line["mask"] > 0 for line in terms)


def test_a_trained_checkpoint_carries_the_vectors_of_its_words(tmp_path):
    trial = take_three_steps("vlt/refcoco", tmp_path)
    with safe_open(trial.folder / "last.safetensors", "pt") as file:
        header = json.loads(file.metadata()["refseg"])
    tokens = json.loads(header["extra"]["word_vectors"])["tokens"]
    assert {"the", "box"} <= set(tokens)


def test_moving_averages_of_frozen_norms_stay_and_others_move(tmp_path):
    from safetensors.torch import load_file

    trial = take_three_steps("vlt/refcoco+", tmp_path)
    state = load_file(trial.folder / "last.safetensors")
    assert torch.equal(state["backbone.stem.norm.running_mean"], torch.zeros(2))
    assert torch.equal(state["backbone.extra.3.norm.running_var"], torch.ones(64))
    assert not torch.equal(state["backbone.extra.4.norm.running_mean"], torch.zeros(32))
    assert not torch.equal(state["fusion.phrase_norm.running_mean"], torch.zeros(64))


def test_activations_may_be_computed_again(tmp_path):
    kept = take_three_steps("vlt/refcoco", tmp_path / "kept").losses
    again = {"run.checkpoint_activations": True}
    assert take_three_steps("vlt/refcoco", tmp_path / "again", overrides=again).losses == kept


@pytest.mark.parametrize(
    ("epoch", "rate"), [(1, 1e-3), (39, 1e-3), (40, 1e-4), (44, 1e-4), (45, 1e-5), (49, 1e-5), (50, 1e-6)]
)
def test_rates_fall_at_the_published_epochs(epoch, rate):
    from refseg.training.recipe import in_steps

    run = in_steps(read_recipe(packaged_recipes()["vlt/refcoco"]), 42_404, 1)
    steps = run.run.steps // 50
    assert steps == 332  # references in batches of 128, the last one filled
    first, last = (epoch - 1) * steps, epoch * steps - 1
    for step in (first, last):
        assert run.optimizer.lr * schedule_ratio(step, run.run.steps, run.schedule) == pytest.approx(rate)
