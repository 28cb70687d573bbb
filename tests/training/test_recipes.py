"""The trial that families' recipes are put to: it passes for a sound recipe and fails for the mistakes it is there for."""

import pytest

from refseg.data.augment.steps import PseudoClip
from refseg.data.collate import collate
from refseg.data.sampling import generator_at
from refseg.models import catalog
from refseg.training import loop
from refseg.training import recipe as recipes_module
from refseg.training.batches import training_frame
from refseg.training.data import open_training_data
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
name = "one.jsonl"
share = 2
augment = [{step = "pseudo_clip", frames = 3}, {step = "measure_boxes"}]
[[data.sets]]
name = "two.jsonl"
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
    assert set(recipes.packaged("scout")) == {
        n for n in recipes_module.packaged_recipes() if n.startswith("scout/")
    }


def _set(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


PUBLISHED = [
    name
    for name in recipes_module.packaged_recipes()
    if not name.startswith(("scout/", "referformer/scenes-")) and not name.endswith(recipes.OWN)
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_reads_its_data_as_published(name, tmp_path):
    run = recipes.on_miniatures(name, tmp_path)
    sources = open_training_data(run, 64)
    for source, own in zip(sources.sources, run.data.each, strict=True):
        # An item is an object of which one phrase is drawn, or a phrase; never a whole picture.
        assert own.options["item"] == ("object" if own.phrases == 1 else "phrase")
        drawn = [source.draw(number, generator_at(0, number)) for number in range(len(source))]
        assert all(len(example.phrases) == 1 for example in drawn)
        frames = own.sample.frames if own.sample else 1
        assert {len(example.frames) for example in drawn} <= {frames, run.data.frames, *_pseudo(own)}
        batch = collate(drawn[:1], training_frame(run, catalog.variant(run.family, run.variant).frame))
        assert batch.targets.masks.shape[-2:] == batch.clips.pixels.shape[-2:]
    assert run.data.evaluate_split != run.data.each[0].split


def _pseudo(own):
    return [step.frames for step in own.augment if isinstance(step, PseudoClip)]
