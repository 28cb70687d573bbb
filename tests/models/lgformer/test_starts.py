"""Training begins with public files, brought over part by part as a person does it."""

import dataclasses
import re

import pytest
import torch

from helpers.cli import call
from refseg.checkpoints import native
from refseg.encoders.swin import Swin
from refseg.encoders.tokenizers.wordpiece import letters_vocabulary
from refseg.errors import CheckpointMismatch
from refseg.models import catalog
from refseg.models.lgformer.config import VARIANTS
from refseg.models.lgformer.pretrained_parts import start_backbone, start_text

DEBUG = VARIANTS["debug"]


def swin_file(window=DEBUG.backbone.window):
    torch.manual_seed(1)
    network = Swin(dataclasses.replace(DEBUG.backbone, window=window))
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("norms.")}
    return state | {"norm.weight": torch.ones(64), "head.weight": torch.zeros(5, 64)}


def hub_text(early):
    """BERT as the hub names it; early files call scale and shift of a norm gamma and beta."""
    torch.manual_seed(2)
    tower = catalog.build("lgformer", "debug").text_tower
    state = {f"bert.{name}": value for name, value in tower.state_dict().items()}
    if early:
        for new, old in (("weight", "gamma"), ("bias", "beta")):
            state = {
                re.sub(rf"(LayerNorm)\.{new}$", rf"\1.{old}", name): value for name, value in state.items()
            }
    return state | {"bert.pooler.dense.weight": torch.zeros(16, 16), "cls.predictions.bias": torch.zeros(3)}


def test_a_classification_file_of_another_window_fills_the_backbone():
    converted, report = start_backbone(swin_file(window=12), DEBUG)
    assert report.left == []
    assert set(report.dropped) == {"norm.weight", "head.weight"}
    wanted = Swin(DEBUG.backbone).state_dict()
    assert {name.removeprefix("backbone.swin."): tuple(value.shape) for name, value in converted.items()} == {
        name: tuple(value.shape) for name, value in wanted.items() if not name.startswith("norms.")
    }


@pytest.mark.parametrize("early", [False, True])
def test_the_hubs_bert_fills_the_text_tower(early):
    converted, report = start_text(hub_text(early), DEBUG)
    assert report.left == []
    tower = catalog.build("lgformer", "debug").text_tower
    assert set(converted) == {f"text_tower.{name}" for name in tower.state_dict()}


def test_a_file_of_another_network_is_refused():
    with pytest.raises(CheckpointMismatch, match="Swin"):
        start_backbone(hub_text(early=False), DEBUG)
    with pytest.raises(CheckpointMismatch, match="BERT"):
        start_text({"conv1.weight": torch.zeros(3)}, DEBUG)


def test_a_start_is_made_part_by_part(tmp_path):
    torch.save({"model": swin_file()}, tmp_path / "swin.pth")
    torch.save(hub_text(early=True), tmp_path / "bert.bin")
    (tmp_path / "tokenizer.json").write_text(letters_vocabulary(), encoding="utf-8")
    words = ["--family", "lgformer", "--variant", "debug", "--tokenizer", tmp_path / "tokenizer.json"]
    first, start = tmp_path / "first.safetensors", tmp_path / "start.safetensors"
    call("convert", tmp_path / "swin.pth", *words, "--part", "backbone", "--out", first)
    call("convert", tmp_path / "bert.bin", *words, "--part", "text", "--onto", first, "--out", start)
    held = native.load(start)[0].state_dict()
    assert torch.equal(held["backbone.swin.patch_embed.proj.weight"], swin_file()["patch_embed.proj.weight"])
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(held[f"text_tower.{name}"], hub_text(early=False)[f"bert.{name}"])
