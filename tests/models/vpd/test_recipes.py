"""The published experiments: each recipe reads the published data as published, and trains what was trained."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from models.vpd import published
from refseg.checkpoints import conversion
from refseg.models import catalog
from refseg.training.data import open_training_data
from refseg.training.initial_weights import initial_model
from refseg.training.optimizer import parameter_groups
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values
from refseg.training.schema import OptimizerConfig
from refseg.training.state import recompute_activations
from training.recipes import packaged, take_three_steps

CASES = Path(__file__).parents[2] / "parity" / "cases" / "datasets"
SETS = {"refcoco": "refcoco", "refcoco+": "refcoco_plus_python2_pickle", "refcocog": "refcocog"}
NAMES = sorted(f"vpd/{name}" for name in SETS)


def recipe(name):
    return read_recipe(packaged_recipes()[name])


def test_there_is_one_recipe_for_each_published_model():
    assert sorted(packaged("vpd")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_three_steps(name, tmp_path):
    trial = take_three_steps(name, tmp_path)
    expected = [5e-5 * (1 - step / 3) ** 0.9 for step in range(3)]
    assert trial.rates == pytest.approx(expected, rel=1e-5)  # the log keeps six digits


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reads_one_phrase_of_an_object_without_augmentation(name, tmp_path):
    values = recipe(name).model_dump(mode="json", exclude_none=True)
    place = tmp_path / "data"
    shutil.copytree(CASES / SETS[name.split("/")[1]], place)
    values["data"]["root"] = str(place)
    run = run_from_values(values, source=name)
    sources = open_training_data(run, 64)
    example = sources.sources[0].draw(0, torch.Generator().manual_seed(0))
    assert len(example.phrases) == 1
    assert not run.data.augment
    assert run.data.flip == run.data.crop == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_the_published_ones(name):
    run = recipe(name)
    assert (run.run.steps, run.run.batch_size, run.run.precision) == ("40 epochs", 4, "float32")
    assert (run.optimizer.lr, run.optimizer.weight_decay, run.optimizer.clip_norm) == (5e-5, 1e-2, 0.0)
    assert run.data.options["masks"] == "exactly-one"
    assert catalog.variant("vpd", run.variant).num_tokens == (77 if "refcocog" in name else 40)


def test_the_groups_of_the_optimiser_are_the_published_ones():
    with torch.device("meta"):
        model = catalog.build("vpd", "debug")
    rules = catalog.family("vpd").param_rules
    settings = OptimizerConfig(lr=5e-5, weight_decay=1e-2, decay_vectors=True)
    groups = {
        group["weight_decay"]: len(group["params"]) for group in parameter_groups(model, rules, settings)
    }
    # 558 tensors of the UNet without the four that never run, and 25 of adapter, gamma and head.
    assert groups == {0.0: 128, 1e-2: 558 - 4 + 25}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(name.startswith(("vae.", "text_tower.")) for name in frozen)
    assert sum(name.startswith("vae.") for name in frozen) == 110 - 2


def test_the_rate_that_the_published_script_only_notes_is_an_option():
    with torch.device("meta"):
        model = catalog.build("vpd", "debug")
    values = recipe("vpd/refcoco").model_dump(mode="json", exclude_none=True)
    values["optimizer"]["rules"] = [
        {
            "pattern": r"^unet\..*attentions\.\d+\.(transformer_blocks\.0\.)?norm\d?\.",
            "lr_scale": 0.01,
            "weight_decay": 0.0,
        },
        {"pattern": r"^unet\.", "lr_scale": 0.01},
    ]
    run = run_from_values(values, source="test")
    groups = parameter_groups(model, catalog.family("vpd").param_rules, run.optimizer)
    assert sorted((group["lr_scale"], len(group["params"])) for group in groups) == [
        (0.01, 128),
        (0.01, 554),
        (1.0, 25),
    ]


def test_a_run_begins_with_stable_diffusion(tmp_path):
    model = published.model()
    folder = published.diffusers_folder(model.state_dict(), tmp_path / "sd")
    start = tmp_path / "start.safetensors"
    conversion.convert(folder, start, family="vpd", variant="debug", part="stable-diffusion")
    values = recipe("vpd/refcoco").model_dump(mode="json", exclude_none=True)
    run = run_from_values(values | {"variant": "debug", "init": str(start)}, source="test")
    first, told = initial_model(run, ())
    assert told == f"from {start}"
    assert torch.equal(first.unet.conv_in.weight, model.unet.conv_in.weight)
    assert torch.equal(first.text_tower.final_layer_norm.weight, model.text_tower.final_layer_norm.weight)


def test_computing_blocks_again_changes_no_gradient():
    gradients = []
    for recomputes in (False, True):
        model = published.model().train()
        if recomputes:
            recompute_activations(model)
        latents = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(1))
        context = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(2))
        model._logits(latents, context).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.unet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == 682
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_the_published_norms_are_those_without_decay():
    [rule] = [rule for rule in catalog.family("vpd").param_rules if rule.weight_decay == 0]
    assert re.search(rule.pattern, "unet.mid_block.attentions.0.norm.weight")
    assert re.search(rule.pattern, "unet.up_blocks.1.attentions.2.transformer_blocks.0.norm3.bias")
    for name in (
        "unet.up_blocks.1.resnets.0.norm1.weight",
        "head.bn1_4.weight",
        "vae.encoder.conv_norm_out.weight",
    ):
        assert not re.search(rule.pattern, name)
