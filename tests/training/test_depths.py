"""Layer-wise rates: every encoder of every family, from input to output, and what stands behind them at the full rate."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.referformer.config import VARIANTS
from refseg.training.lora import attach
from refseg.training.optimizer import describe_layers, layer_scales, layers, parameter_groups, train_mode
from refseg.training.schema import AdaptersConfig, OptimizerConfig

# Parameters from the input to the output of an encoder, by hand; the last learns at 0.5 of the rate.
LADDERS = {
    "scout": {
        "backbone": ["stem.0.0.weight", "stages.0.blocks.0.first.0.weight", "fusions.1.out.weight", "stages.3.blocks.0.first.0.weight"],
        "text tower": ["text.words.weight", "text.layers.0.attention.out.weight"],
    },
    "referformer": {
        "backbone": ["backbone.stem.conv.weight", "backbone.stages.0.0.conv1.conv.weight", "backbone.stages.3.0.conv2.conv.weight"],
        "text tower": ["text_tower.embeddings.LayerNorm.weight", "text_tower.encoder.layer.0.output.dense.weight"],
    },
    "lgformer": {
        "backbone": [
            "backbone.swin.patch_embed.proj.weight", "backbone.swin.layers.0.blocks.0.mlp.fc1.weight",
            "backbone.swin.layers.0.downsample.reduction.weight", "backbone.swin.layers.2.blocks.0.attn.qkv.weight", "backbone.swin.layers.3.blocks.0.norm1.weight",
            "backbone.swin.norms.3.weight",
        ],
    },
    "vlformer": {"backbone": ["backbone.stem.conv.weight", "backbone.stages.1.0.conv1.conv.weight", "backbone.stages.2.0.conv1.conv.weight"]},
    "vlt": {"backbone": ["backbone.stem.conv.weight", "backbone.stages.0.down.conv.weight", "backbone.stages.4.blocks.0.wide.conv.weight", "backbone.extra.0.conv.weight"]},
    "vpd": {
        "UNet": [
            "unet.time_embedding.linear_1.weight", "unet.down_blocks.0.resnets.0.conv1.weight",
            "unet.down_blocks.3.resnets.0.conv1.weight", "unet.mid_block.resnets.0.conv1.weight",
            "unet.up_blocks.0.resnets.0.conv1.weight", "unet.up_blocks.3.resnets.0.conv1.weight",
        ],
    },
}  # fmt: skip
COUNTS = {"scout": [5, 2], "referformer": [5, 2], "vlformer": [5, 2], "vlt": [7], "vpd": [10]}
HEADS = {
    "scout": r"^(decoder|cells|pyramid|detail|naming|motion|cue)",
    "referformer": r"^(projections|resizer|fusion|encoder|decoder|pixel_decoder|mask_head)",
    "lgformer": r"^(backbone\.(fusions|gates|text_gates)|pixel_decoder|query_decoder)",
    "vlformer": r"^(resizer|pixel_decoder|decoder)",
    "vlt": r"^(phrase|sides|fusion|queries|encoder|decoder|balance|head)",
    "vpd": r"^(gamma|adapter|head|text_tower|vae)",
}


def debug_model(family):
    return catalog.build(family, catalog.variant(family, "debug").for_words(("left", "box")))


@pytest.mark.parametrize("family", LADDERS)
def test_rates_rise_from_the_input_to_the_output_and_cover_all(family):
    model = debug_model(family)
    scales = layer_scales(model, 0.5)
    for ladder in LADDERS[family].values():
        ranks = [scales[name] for name in ladder]
        assert ranks == sorted(ranks), ladder
        assert (
            len(set(ranks)) >= len(ranks) - 1
        )  # lgformer's last norm and block 0 of the last stage are one apart
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if re.search(HEADS[family], name)} == names - set(scales)
    for tower in {layer.tower for layer in layers(model, 0.5)}:
        own = [layer.scale for layer in layers(model, 0.5) if layer.tower == tower]
        assert own == [0.5 ** (len(own) - number) for number in range(len(own))]


@pytest.mark.parametrize("family", COUNTS)
def test_the_number_of_layers_is_that_of_the_encoder(family):
    found = layers(debug_model(family), 0.5)
    assert [
        sum(layer.tower == t for layer in found) for t in dict.fromkeys(layer.tower for layer in found)
    ] == COUNTS[family]


@pytest.mark.parametrize("kind", ["swin-t", "video-swin-t"])
def test_every_backbone_of_referformer_has_its_layers(kind):
    config = dataclasses.replace(VARIANTS["debug"], backbone=VARIANTS[kind].backbone)
    with torch.device("meta"):
        model = catalog.build("referformer", config)
    scales = layer_scales(model, 0.5)
    assert {name for name, _ in model.named_parameters() if name.startswith("backbone.")} <= set(scales)
    depth = [0, 2, 4, 10]  # blocks before each stage of a tiny Swin
    ranks = [scales[f"backbone.layers.{stage}.blocks.0.norm1.weight"] for stage in range(4)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 4
    between = [math_log2(ranks[stage] / ranks[0]) for stage in range(4)]
    assert all(between[stage] >= depth[stage] for stage in range(4))


def math_log2(value):
    return round(torch.tensor(value).log2().item())


def test_a_rate_is_the_rules_scale_times_that_of_the_layer():
    model = debug_model("referformer")
    family = catalog.family("referformer")
    groups = parameter_groups(model, family.param_rules, OptimizerConfig(lr=1.0, layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = {name: scale.get(id(p)) for name, p in model.named_parameters()}
    assert named["backbone.stages.3.0.conv1.conv.weight"] == 0.5 * 0.5  # the family halves its backbone
    assert named["text_tower.encoder.layer.0.output.dense.weight"] == pytest.approx(0.1 * 0.5)
    assert named["decoder.query_embed.weight"] == 1.0


def test_adapters_learn_at_the_rate_of_their_layer():
    model = debug_model("lgformer").train()
    attach(model, AdaptersConfig(patterns=(r"swin\..*attn\.qkv", r"query_decoder.*attention"), rank=2))
    groups = parameter_groups(model, (), OptimizerConfig(lr=1.0, layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = {name: scale[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert (
        named[
            "backbone.swin.layers.3.blocks.0.attn.parametrizations.qkv.weight.0.up".replace(
                "parametrizations.qkv.weight", "qkv.parametrizations.weight"
            )
        ]
        >= 0.25
    )
    assert {s for n, s in named.items() if n.startswith("query_decoder")} == {1.0}
    assert len({s for n, s in named.items() if n.startswith("backbone")}) == 5  # blocks of the debug Swin


def test_the_plan_tells_the_range_and_refuses_what_changes_nothing():
    model = debug_model("referformer")
    assert describe_layers(model, 1.0) == []
    backbone, text = describe_layers(model, 0.5)
    assert re.fullmatch(
        r"backbone: \d+ layers learn at x0\.\d+ to x0\.5 of their rates, input to output", backbone
    )
    assert text == "text tower: 2 layers learn at x0.25 to x0.5 of their rates, input to output"
    with pytest.raises(InvalidInput, match="all of them are frozen"):
        describe_layers(debug_model("vpd").requires_grad_(False), 0.5)
    with pytest.raises(InvalidInput, match="Linear names none"):
        layers(nn.Linear(2, 2), 0.5)


def test_frozen_patterns_go_before_rules_and_must_find_something():
    model = debug_model("scout")
    rules = ({"pattern": "^stem", "lr_scale": 2.0},)
    settings = OptimizerConfig.model_validate({"lr": 1.0, "freeze": ("^(stem|stages)",), "rules": rules})
    parameter_groups(model, (), settings)
    assert {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad} == {
        "stem",
        "stages",
    }
    with pytest.raises(
        InvalidInput,
        match=r"optimizer.freeze: '\^stems' finds no parameter of the model; did you mean \^stem",
    ):
        parameter_groups(debug_model("scout"), (), OptimizerConfig(lr=1.0, freeze=("^stems",)))


def test_the_statistics_of_frozen_batch_norms_stay_and_others_move():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"frozen": nn.BatchNorm2d(3), "free": nn.BatchNorm2d(3), "bare": nn.BatchNorm2d(3, affine=False)}
    )
    parameter_groups(model, (), OptimizerConfig(lr=1.0, freeze=("^frozen",)))
    train_mode(model)
    before = {name: norm.running_mean.clone() for name, norm in model.items()}
    pixels = torch.randn(4, 3, 5, 5) + 2
    answers = {name: norm(pixels) for name, norm in model.items()}
    moved = {name: not torch.equal(norm.running_mean, before[name]) for name, norm in model.items()}
    assert moved == {"frozen": False, "free": True, "bare": True}
    torch.testing.assert_close(
        answers["frozen"], pixels / (1 + 1e-5) ** 0.5
    )  # by its statistics, not the batch's
    train_mode(model.eval())
    assert not model["frozen"].training
    assert model["free"].training
