"""Training from nothing begins with public files, brought over part by part as a person does it."""

import pytest
import torch

from helpers.cli import call
from refseg.checkpoints import native
from refseg.encoders.tokenizers.tokens import byte_tokenizer
from refseg.errors import CheckpointMismatch
from refseg.models import catalog
from refseg.models.referformer.config import VARIANTS
from refseg.models.referformer.pretrained_parts import start_backbone, start_pooler, start_text


def backbone_of(variant, seed):
    torch.manual_seed(seed)
    return catalog.build("referformer", variant).backbone


def resnet_file(network):
    """torchvision's names, with the classifier and batch counters."""
    state = {
        "fc.weight": torch.zeros(10, 4),
        "fc.bias": torch.zeros(10),
        "bn1.num_batches_tracked": torch.zeros(()),
    }
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            conv, leaf = "conv1", parts[1:]
        else:
            stage, block, unit, *leaf = parts[1:]
            conv = f"layer{int(stage) + 1}.{block}." + {"shortcut": "downsample.0"}.get(unit, unit)
        kind, last = leaf
        if kind == "norm":
            conv = conv.replace("downsample.0", "downsample.1").replace("conv", "bn")
        state[f"{conv}.{last}"] = value
    return state


def swin_file(network):
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("norms.")}
    return state | {"norm.weight": torch.ones(128), "head.weight": torch.zeros(5, 128)}


def kinetics_file(network):
    state = {}
    for name, value in network.state_dict().items():
        owner, _, rest = name.partition(".")
        published = f"layers.{rest.replace('.', '.downsample.', 1)}" if owner == "downsamples" else name
        state[f"backbone.{published}"] = value
    patches = state["backbone.patch_embed.proj.weight"]
    state["backbone.patch_embed.proj.weight"] = torch.cat([0.5 * patches, 0.5 * patches], dim=2)
    return state | {"cls_head.fc_cls.weight": torch.zeros(4, 128)}


FILES = {"debug": resnet_file, "debug-swin": swin_file, "debug-video": kinetics_file}


@pytest.mark.parametrize("variant", FILES)
def test_a_public_backbone_file_fills_the_backbone(variant):
    source = backbone_of(variant, 1)
    converted, report = start_backbone(FILES[variant](source), VARIANTS[variant])
    assert report.left == []
    wanted = {
        f"backbone.{name}": value for name, value in source.state_dict().items() if "norms." not in name
    }
    assert set(converted) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(converted[name], value)


@pytest.mark.parametrize(("variant", "other"), [("debug-video", "debug"), ("debug-swin", "debug-video")])
def test_a_file_of_another_network_is_refused(variant, other):
    with pytest.raises(CheckpointMismatch):
        start_backbone(FILES[other](backbone_of(other, 1)), VARIANTS[variant])


def hub_text(tower):
    state = {f"roberta.{name}": value for name, value in tower.state_dict().items() if "pooler" not in name}
    return state | {"roberta.embeddings.position_ids": torch.zeros(1, 4), "lm_head.bias": torch.zeros(3)}


def test_the_hubs_text_tower_comes_without_a_pooler_and_a_published_file_brings_one():
    tower = catalog.build("referformer", "debug").text_tower
    converted, report = start_text(hub_text(tower), VARIANTS["debug"])
    assert report.left == []
    assert set(converted) == {f"text_tower.{name}" for name in tower.state_dict() if "pooler" not in name}
    with pytest.raises(CheckpointMismatch, match="no pooler"):
        start_pooler(hub_text(tower), VARIANTS["debug"])
    published = {f"text_encoder.{name}": value for name, value in tower.state_dict().items()}
    pooler, _ = start_pooler(published | {"query_embed.weight": torch.zeros(5, 4)}, VARIANTS["debug"])
    assert set(pooler) == {"text_tower.pooler.dense.weight", "text_tower.pooler.dense.bias"}


def test_a_start_is_made_part_by_part_and_taken_by_a_recipe(tmp_path):
    source = catalog.build("referformer", "debug-video")
    torch.save({"state_dict": kinetics_file(source.backbone)}, tmp_path / "kinetics.pth")
    torch.save(hub_text(source.text_tower), tmp_path / "roberta.bin")
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")
    words = [
        "--family",
        "referformer",
        "--variant",
        "debug-video",
        "--tokenizer",
        tmp_path / "tokenizer.json",
    ]
    first, start = tmp_path / "first.safetensors", tmp_path / "start.safetensors"
    call("convert", tmp_path / "kinetics.pth", *words, "--part", "backbone", "--out", first)
    call("convert", tmp_path / "roberta.bin", *words, "--part", "text", "--onto", first, "--out", start)
    model, header = native.load(start)
    assert header.variant == "debug-video"
    for part in ("backbone", "text_tower.encoder"):
        there, here = source.get_submodule(part).state_dict(), model.get_submodule(part).state_dict()
        assert all(torch.allclose(here[name], value) for name, value in there.items())
