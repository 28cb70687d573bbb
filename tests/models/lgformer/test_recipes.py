"""The published experiments: each recipe reads the published data as published, and trains what was trained."""

import shutil
from pathlib import Path

import pytest
import torch

from refseg.models import catalog
from refseg.models.lgformer.family import FAMILY
from refseg.training.data import open_training_data
from refseg.training.optimizer import build_optimizer, schedule_ratio
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values
from training.recipes import packaged, take_three_steps

CASES = Path(__file__).parents[2] / "parity" / "cases" / "datasets"
SETS = {
    "refcoco": "refcoco",
    "refcoco+": "refcoco_plus_python2_pickle",
    "refcocog": "refcocog",
    "referit": "refclef",
}
NAMES = sorted(f"lgformer/{name}" for name in SETS)


def recipe(name):
    return read_recipe(packaged_recipes()[name])


def test_there_is_one_recipe_for_each_published_model():
    assert sorted(packaged("lgformer")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_three_steps(name, tmp_path):
    trial = take_three_steps(name, tmp_path)
    expected = [5e-5 * (1 - step / 3) ** 0.9 for step in range(3)]
    assert trial.rates == pytest.approx(expected, rel=1e-5)  # the log keeps six digits


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reads_one_raw_phrase_of_an_object_without_augmentation(name, tmp_path):
    values = recipe(name).model_dump(mode="json", exclude_none=True)
    place = tmp_path / "data"
    shutil.copytree(CASES / SETS[name.split("/")[1]], place)
    values["data"]["root"] = str(place)
    run = run_from_values(values, source=name)
    source = open_training_data(run, 64).sources[0]
    example = source.draw(0, torch.Generator().manual_seed(0))
    assert len(example.phrases) == 1
    assert run.data.options == {"item": "object", "text": "raw", "masks": "exactly-one"}
    assert not run.data.augment
    assert run.data.flip == run.data.crop == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_the_published_ones(name):
    run = recipe(name)
    assert (run.run.steps, run.run.batch_size, run.run.precision) == ("40 epochs", 16, "float16")
    assert (run.optimizer.lr, run.optimizer.weight_decay, run.optimizer.clip_norm) == (5e-5, 1e-2, 0.0)
    assert run.optimizer.betas == (0.9, 0.999)
    assert schedule_ratio(10, 40, run.schedule) == pytest.approx(0.75**0.9)
    assert run.run.best_by == "oIoU"


def test_norms_and_position_tables_of_the_backbone_alone_do_not_decay_and_berts_embeddings_stay():
    model = catalog.build("lgformer", "debug")
    optimizer = build_optimizer(model, FAMILY.param_rules, recipe("lgformer/refcoco").optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: decay.get(id(parameter)) for name, parameter in model.named_parameters()}
    assert of["backbone.swin.layers.0.blocks.0.norm1.weight"] == 0
    assert of["backbone.swin.norms.2.bias"] == 0
    assert of["backbone.swin.layers.1.blocks.0.attn.relative_position_bias_table"] == 0
    assert of["backbone.swin.layers.0.blocks.0.mlp.fc1.bias"] == 1e-2
    assert of["pixel_decoder.layers.0.norm.weight"] == 1e-2
    assert of["text_tower.encoder.layer.0.output.LayerNorm.weight"] == 1e-2
    assert of["text_tower.embeddings.word_embeddings.weight"] is None
