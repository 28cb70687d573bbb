"""The trial that families' recipes are put to: it passes for a sound recipe and fails for the mistakes it is there for."""

import pytest

from refseg.training import config, loop
from training import recipes

RECIPE = """
family = "scout"
variant = "base"
init = "absent"
[data]
skip_unseen = true
augment = [
  {step = "flip"},
  {step = "distort", wraps = true},
  {step = "choice", options = [
    [{step = "resize", short = [288, 512], longest = 640, masks = "corner"}],
    [{step = "resize", short = [400]}, {step = "crop", least = 384, most = 600}, {step = "resize", short = [288]}],
  ]},
  {step = "check_boxes"},
]
[[data.sets]]
name = "refcoco"
share = 2
augment = [{step = "pseudo_clip", frames = 3}, {step = "measure_boxes"}]
[[data.sets]]
name = "ref-youtube-vos"
share = 1
sample = {rule = "around", frames = 3}
augment = [{step = "measure_boxes"}]
[optimizer]
lr = 1e-3
clip_norm = 0.1
decay_vectors = true
[schedule]
kind = "step"
drops = ["8 epochs", "10 epochs"]
[run]
steps = "12 epochs"
batch_size = 16
epoch_ends = "drop"
precision = "float16"
evaluate_every = "1 epoch"
save_every = "1 epoch"
best_by = "oIoU"
"""
NAMING = r"^naming\."  # the head of another objective, which phrases leave alone


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    path = tmp_path / "joint.toml"
    path.write_text(RECIPE)
    monkeypatch.setattr(recipes, "packaged_recipes", lambda: {"scout/joint": path})
    return path


def test_a_sound_recipe_passes(recipe, tmp_path):
    trial = recipes.take_three_steps("scout/joint", tmp_path / "trial", unmoved=(NAMING,))
    assert trial.rates == (1e-3,) * 3
    assert (trial.folder / "run.toml").exists()


def test_a_recipe_that_trains_nothing_is_found(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "set_learning_rate", lambda optimizer, rate: _set(optimizer, 0.0))
    with pytest.raises(AssertionError, match="unmoved after 3 steps"):
        recipes.take_three_steps("scout/joint", tmp_path / "trial", unmoved=(NAMING,))


def test_a_family_without_recipes_is_found():
    with pytest.raises(AssertionError, match="refseg/recipes/none holds no recipe"):
        recipes.packaged("none")
    assert set(recipes.packaged("scout")) == {n for n in config.packaged_recipes() if n.startswith("scout/")}


def _set(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
