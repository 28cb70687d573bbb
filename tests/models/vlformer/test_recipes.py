"""The published recipes train."""

import pytest

from refseg.training.recipe import packaged_recipes, read_recipe
from training.recipes import packaged, take_three_steps


@pytest.mark.parametrize("name", packaged("vlformer"))
def test_a_published_recipe_trains(name, tmp_path):
    trial = take_three_steps(name, tmp_path)
    assert trial.rates == (1e-4,) * 3


def test_activations_may_be_computed_again(tmp_path):
    kept = take_three_steps("vlformer/refcoco-r50", tmp_path / "kept").losses
    again = {"run.checkpoint_activations": True}
    assert take_three_steps("vlformer/refcoco-r50", tmp_path / "again", overrides=again).losses == kept


def test_every_published_configuration_has_a_recipe():
    runs = [read_recipe(packaged_recipes()[name]) for name in packaged("vlformer")]
    runs = [run for run in runs if run.data.name != "ref-youtube-vos"]
    found = {(run.data.name, run.variant) for run in runs}
    sets, variants = ("refcoco", "refcoco+", "refcocog-umd"), ("resnet50", "resnet101")
    assert found == {(name, variant) for name in sets for variant in variants}
    assert all(not run.model and not run.loss for run in runs)  # the published model, with its padded words
