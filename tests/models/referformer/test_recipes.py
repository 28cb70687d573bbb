"""The published experiments: each recipe reads the published data sets as published, and trains."""

import shutil

import pytest
import torch

from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.training.data import ExamplesByPosition, open_training_data
from refseg.training.initial_weights import initial_model
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values
from refseg.training.state import recompute_activations
from training.recipes import CASES, MINIATURES, packaged, take_three_steps

NAMES = ["a2d", "a2d-scratch", "joint", "pretrain", "ytvos", "ytvos-scratch"]


def recipe(name):
    return read_recipe(packaged_recipes()[f"referformer/{name}"])


def test_every_published_experiment_has_a_recipe():
    own = ("referformer/scenes-", "referformer/fine-tune")  # not published ones
    assert [name for name in sorted(packaged("referformer")) if not name.startswith(own)] == sorted(
        f"referformer/{name}" for name in NAMES
    )


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *((name, "debug") for name in NAMES),
        ("a2d", "debug-video"),
        ("joint", "debug-video"),
        ("pretrain", "debug-swin"),
    ],
)
def test_a_recipe_takes_three_steps(name, variant, tmp_path):
    overrides = {"variant": variant, "run.checkpoint_activations": variant != "debug"}
    trial = take_three_steps(f"referformer/{name}", tmp_path, overrides=overrides)
    assert trial.rates == (1e-4,) * 3


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reads_the_published_data(name, tmp_path):
    values = recipe(name).model_dump(mode="json", exclude_none=True)
    values["variant"] = "debug"
    for one in values["data"]["sets"] or [values["data"]]:
        place = tmp_path / one["name"]
        shutil.copytree(CASES / MINIATURES[one["name"]], place)  # readers keep an index beside the data
        one["root"] = str(place)
    run = run_from_values(values | {"run": {**values["run"], "steps": 10}}, source=name)
    sources = open_training_data(run, 64)
    positions = ExamplesByPosition(sources)
    frames = {"pretrain": 1, "a2d-scratch": 6}.get(name, 5)
    for source, each in zip(sources.sources, run.data.each, strict=True):
        example = source.draw(0, torch.Generator().manual_seed(0))
        assert len(example.frames) == frames
        assert len(example.phrases) == 1
        assert example.boxes is not None
        assert (example.target_frames is not None) == (each.name == "a2d")
    assert positions[0].example.masks is not None


@pytest.mark.parametrize(
    ("name", "epochs", "drops", "batch"),
    [
        ("pretrain", 12, ("8 epochs", "10 epochs"), 2),
        ("ytvos", 6, ("3 epochs", "5 epochs"), 1),
        ("ytvos-scratch", 10, ("6 epochs", "8 epochs"), 1),
        ("joint", 12, ("8 epochs", "10 epochs"), 1),
        ("a2d", 6, ("3 epochs", "5 epochs"), 2),
        ("a2d-scratch", 12, ("8 epochs", "10 epochs"), 1),
    ],
)
def test_lengths_are_the_published_ones(name, epochs, drops, batch):
    run = recipe(name)
    assert run.run.steps == f"{epochs} epochs"
    assert tuple(str(drop) for drop in run.schedule.drops) == drops
    assert run.run.batch_size == batch
    assert run.optimizer.clip_norm == 0.1
    assert run.optimizer.weight_decay == (1e-4 if name == "a2d-scratch" else 5e-4)
    assert run.optimizer.decay_vectors
    trains_text = catalog.variant("referformer", run.variant).trains_text
    assert trains_text == (name == "pretrain")


def test_only_fine_tuning_throws_the_class_heads_of_its_start_away():
    without = {name: recipe(name).init_without for name in NAMES}
    assert without["ytvos"] == without["a2d"] == (r"^decoder\.class_heads\.",)
    assert not any(without[name] for name in ("a2d-scratch", "joint", "pretrain", "ytvos-scratch"))


def test_weights_that_a_recipe_does_without_begin_fresh(tmp_path):
    torch.manual_seed(0)
    start = catalog.build("referformer", "debug")
    path = tmp_path / "start.safetensors"
    native.save(path, start, family="referformer", variant="debug", origin={})
    values = recipe("ytvos").model_dump(mode="json", exclude_none=True) | {
        "variant": "debug",
        "init": str(path),
    }
    torch.manual_seed(1)
    model, told = initial_model(run_from_values(values, source="test"), [])
    same = {
        name for name, tensor in model.state_dict().items() if torch.equal(tensor, start.state_dict()[name])
    }
    assert "decoder.class_heads.1.weight" not in same
    assert "decoder.box_heads.1.layers.0.weight" in same
    assert "start fresh" in told
    values["init_without"] = ["no_such_weight"]
    with pytest.raises(InvalidInput, match="finds no weight"):
        initial_model(run_from_values(values, source="test"), [])


@pytest.mark.parametrize("variant", ["debug", "debug-swin", "debug-video"])
def test_recomputed_blocks_give_the_same_gradients(variant):
    torch.manual_seed(0)
    frames = torch.randn(1, 3, 3, 48, 64)
    gradients = []
    for recomputes in (False, True):
        torch.manual_seed(1)
        model = catalog.build("referformer", variant).train()
        if recomputes:
            recompute_activations(model)
        torch.manual_seed(2)  # dropout and drop-path draw alike
        stages = model.backbone(frames if variant == "debug-video" else frames[0])
        sum(level.square().mean() for level in stages).backward()
        gradients.append([p.grad for p in model.backbone.parameters() if p.requires_grad])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again)
