"""The recipes for pictures of one's own on one small GPU: three real steps each in debug width, from a checkpoint."""

import pytest

from refseg.checkpoints import native
from refseg.models import catalog
from refseg.training.recipe import packaged_recipes, read_recipe
from refseg.training.state import seed_all
from training.recipes import OWN, take_three_steps

NAMES = [name for name in packaged_recipes() if name.endswith(OWN)]


def test_there_is_one_for_every_published_family():
    assert {name.split("/")[0] for name in NAMES} == set(catalog.FAMILIES) - {"scout"}  # which has scout/own


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_from_a_checkpoint(name, tmp_path):
    family = name.split("/")[0]
    start = tmp_path / "start.safetensors"
    seed_all(0)
    native.save(start, catalog.build(family, "debug"), family=family, variant="debug", origin={})
    overrides = {"init": str(start), "run.patience": 0}
    trial = take_three_steps(name, tmp_path / "trial", overrides=overrides)
    assert (trial.folder / "adapters.safetensors").exists() == (family in ("lgformer", "vpd"))


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_little_of_a_gpu(name):
    run = read_recipe(packaged_recipes()[name])
    assert run.init in _cards()
    assert run.data.name == "my.jsonl"
    assert run.run.ema == 0.0
    assert run.run.batch_size * run.optimizer.accumulate >= 4
    assert run.run.patience
    assert run.run.checkpoint_activations
    published = read_recipe(packaged_recipes()[f"{run.family}/{_published(run.family)}"])
    assert run.optimizer.lr <= 2 * published.optimizer.lr


def _published(family):
    return {"referformer": "ytvos", "vlformer": "refcoco-r50"}.get(family, "refcoco")


def _cards():
    from refseg.checkpoints import zoo

    return [card.name for card in zoo.list_checkpoints()]
