"""Published names, and the files that a training run starts from."""

import pickle
import re

import numpy as np
import pytest
import torch

from refseg.checkpoints import native
from refseg.checkpoints.conversion import convert as convert_file
from refseg.encoders.clip_tokens import clip_byte_tokenizer
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.models import catalog
from refseg.models.vlformer.config import VARIANTS
from refseg.models.vlformer.convert import convert, convert_backbone, convert_mask2former, convert_text

DEBUG = VARIANTS["debug"]


@pytest.fixture(scope="module")
def state():
    """What the debug variant holds, under published names."""
    torch.manual_seed(0)
    model = catalog.build("vlformer", "debug")
    return {published(name): tensor for name, tensor in model.state_dict().items()}


_PIXELS, _QUERIES = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
PUBLISHED = (  # ours to theirs: the table of the specification, written the other way round
    (r"text_tower\.(.*)", r"text_encoder.text_model.\1"),
    (r"resizer\.(.*)", r"resizer.layers.0.\1"),
    (r"backbone\.stem\.conv\.(.*)", r"backbone.stem.conv1.\1"),
    (r"backbone\.stem\.norm\.(.*)", r"backbone.stem.conv1.norm.\1"),
    *(
        (rf"backbone\.stages\.{k}\.(\d+)\.(\w+)\.conv\.(.*)", rf"backbone.res{k + 2}.\1.\2.\3")
        for k in range(4)
    ),
    *(
        (rf"backbone\.stages\.{k}\.(\d+)\.(\w+)\.norm\.(.*)", rf"backbone.res{k + 2}.\1.\2.norm.\3")
        for k in range(4)
    ),
    (r"pixel_decoder\.level_embed", rf"{_PIXELS}.transformer.level_embed"),
    (r"pixel_decoder\.projections\.(\d)\.conv\.(.*)", rf"{_PIXELS}.input_proj.\1.0.\2"),
    (r"pixel_decoder\.projections\.(\d)\.norm\.(.*)", rf"{_PIXELS}.input_proj.\1.1.\2"),
    *(
        (rf"pixel_decoder\.fusions\.{k}\.attention\.(.*)", rf"{_PIXELS}.fusion_{k + 1}.multihead_attn.\1")
        for k in range(3)
    ),
    (r"pixel_decoder\.adapter\.conv\.(.*)", rf"{_PIXELS}.adapter_1.\1"),
    (r"pixel_decoder\.adapter\.norm\.(.*)", rf"{_PIXELS}.adapter_1.norm.\1"),
    (r"pixel_decoder\.smooth\.conv\.(.*)", rf"{_PIXELS}.layer_1.\1"),
    (r"pixel_decoder\.smooth\.norm\.(.*)", rf"{_PIXELS}.layer_1.norm.\1"),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.(.*)",
        rf"{_PIXELS}.transformer.encoder.layers.\1.self_attn.\2",
    ),
    (r"pixel_decoder\.layers\.(\d+)\.norm\.(.*)", rf"{_PIXELS}.transformer.encoder.layers.\1.norm1.\2"),
    (
        r"pixel_decoder\.layers\.(\d+)\.feed_forward\.norm\.(.*)",
        rf"{_PIXELS}.transformer.encoder.layers.\1.norm2.\2",
    ),
    (r"pixel_decoder\.layers\.(\d+)\.feed_forward\.(.*)", rf"{_PIXELS}.transformer.encoder.layers.\1.\2"),
    (r"pixel_decoder\.(.*)", rf"{_PIXELS}.\1"),
    (
        r"decoder\.layers\.(\d+)\.visual_attention\.(.*)",
        rf"{_QUERIES}.transformer_cross_attention_layers.\1.multihead_attn.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.word_attention\.(.*)",
        rf"{_QUERIES}.transformer_cross_attention_layers.\1.multihead_attn_text.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.cross_norm\.(.*)",
        rf"{_QUERIES}.transformer_cross_attention_layers.\1.norm.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.self_attention\.(.*)",
        rf"{_QUERIES}.transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (r"decoder\.layers\.(\d+)\.self_norm\.(.*)", rf"{_QUERIES}.transformer_self_attention_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.hidden_norm\.(.*)", rf"{_QUERIES}.transformer_ffn_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.(linear.*)", rf"{_QUERIES}.transformer_ffn_layers.\1.\2"),
    (r"decoder\.norm\.(.*)", rf"{_QUERIES}.decoder_norm.\1"),
    (r"decoder\.(.*)", rf"{_QUERIES}.\1"),
)


def published(name):
    """The published name of one of ours."""
    pattern, template = next(pair for pair in PUBLISHED if re.fullmatch(pair[0], name))
    return re.sub(pattern, template, name)


@pytest.mark.parametrize("form", ["pth", "pkl"])
def test_a_published_file_becomes_ours_with_its_tokenizer(state, tmp_path, form):
    extra = {"criterion.empty_weight": torch.tensor([1.0, 0.1])}
    extra["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    path = tmp_path / f"model_final.{form}"
    if form == "pth":
        torch.save({"model": state | extra, "optimizer": {}, "iteration": 99_999}, path)
    else:
        arrays = {name: tensor.numpy() for name, tensor in (state | extra).items()}
        path.write_bytes(
            pickle.dumps({"model": arrays, "__author__": "somebody", "matching_heuristics": True})
        )
    done = convert_file(path, tmp_path / "ours.safetensors", family="vlformer", variant="debug")
    assert set(done.report.dropped) == set(extra)
    assert done.report.left == []
    assert done.header.extra["tokenizer.json"] == clip_byte_tokenizer()
    model, _ = native.load(done.path)
    assert all(torch.equal(model.state_dict()[done.report.renamed[name]], state[name]) for name in state)


def test_a_vocabulary_in_any_published_form_can_be_given(state, tmp_path):
    import gzip

    torch.save({"model": state}, tmp_path / "m.pth")
    with gzip.open(tmp_path / "bpe.txt.gz", "wt", encoding="utf-8") as file:
        file.write("#version: 0.2\nr e\nre d</w>\n")
    done = convert_file(
        tmp_path / "m.pth",
        tmp_path / "ours.safetensors",
        family="vlformer",
        variant="debug",
        tokenizer=tmp_path / "bpe.txt.gz",
    )
    model, _ = native.load(done.path)
    assert model.tokenize(["red"]).values.shape == (1, 3)


def test_a_name_that_no_rule_knows_is_left(state):
    _, report = convert({"sem_seg_head.predictor.memory.weight": torch.ones(1)}, DEBUG)
    assert report.left == ["sem_seg_head.predictor.memory.weight"]


def test_mask2former_gives_what_fits_and_tells_what_does_not(state):
    given = {
        name: tensor for name, tensor in state.items() if not name.startswith(("text_encoder", "resizer"))
    }
    given = {name: tensor for name, tensor in given.items() if "fusion_" not in name and "_text." not in name}
    head = "sem_seg_head.predictor"
    given[f"{head}.query_feat.weight"] = torch.zeros(100, 64)
    given[f"{head}.class_embed.weight"] = torch.zeros(41, 64)
    given[f"{head}.transformer_ffn_layers.3.linear1.weight"] = torch.zeros(48, 64)
    given["criterion.empty_weight"] = torch.zeros(41)
    given["sem_seg_head.pixel_decoder.extra.weight"] = torch.zeros(1)
    converted, report = convert_mask2former(given, DEBUG)
    assert report.left == []
    assert report.dropped[f"{head}.query_feat.weight"] == "of another shape: 100x64, the model has 5x64"
    assert "of another shape" in report.dropped[f"{head}.class_embed.weight"]
    assert "layer more" in report.dropped[f"{head}.transformer_ffn_layers.3.linear1.weight"]
    assert "does not have" in report.dropped["sem_seg_head.pixel_decoder.extra.weight"]
    assert len(converted) == len(report.renamed) == len(given) - len(report.dropped)
    assert torch.equal(converted["decoder.class_embed.bias"], state[f"{head}.class_embed.bias"])


def test_a_file_of_something_else_is_no_start():
    with pytest.raises(CheckpointMismatch, match="no tensor of the file fits"):
        convert_mask2former({"layer1.0.conv1.weight": torch.zeros(4)}, DEBUG)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_an_imagenet_resnet_in_detectron2s_names_is_a_start(state, prefix):
    names = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    given = {prefix + name.removeprefix("backbone."): tensor for name, tensor in names.items()}
    given |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    converted, report = convert_backbone(given, DEBUG)
    assert report.left == []
    assert len(converted) == len(names)


def caffe(state):
    """The backbone as Caffe's blobs: a scale and a shift after each convolution."""
    branches = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    blobs = {"fc1000_w": np.zeros(1), "fc1000_b": np.zeros(1), "conv1_b": np.zeros(8)}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "backbone" or parts[-1].startswith("running"):
            continue
        ending = "w" if "norm" not in parts else {"weight": "bn_s", "bias": "bn_b"}[parts[-1]]
        if parts[1] == "stem":
            blobs["conv1_w" if ending == "w" else f"res_conv1_{ending}"] = tensor.numpy()
        else:
            blobs[f"{parts[1]}_{parts[2]}_{branches[parts[3]]}_{ending}"] = tensor.numpy()
    return blobs


def test_caffes_resnet_computes_the_same_stem_of_our_pixels(state, tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": caffe(state)}))
    done = convert_file(
        tmp_path / "R-50.pkl", tmp_path / "o.safetensors", family="vlformer", variant="debug", part="backbone"
    )
    assert "untrained" in done.header.origin["part"]
    model, _ = native.load(done.path)
    pixels = torch.rand(1, 3, 32, 32) * 255
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (DEBUG.frame.mean, DEBUG.frame.std))
    blue_first = (pixels - mean).flip(1)
    expected = torch.nn.functional.conv2d(
        blue_first, state["backbone.stem.conv1.weight"], stride=2, padding=3
    )
    got = model.backbone.stem.conv((pixels - mean) / std)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    assert bool((model.backbone.stages[0][0].conv1.norm.running_var == 1).all())


def test_a_backbone_of_another_depth_is_refused(state):
    given = {name: t for name, t in state.items() if name.startswith("backbone.") and "res5" not in name}
    with pytest.raises(CheckpointMismatch, match="not the backbone of this variant"):
        convert_backbone(given, DEBUG)


def test_parts_are_put_together_one_file_after_the_other(state, tmp_path):
    clip = {
        name.removeprefix("text_encoder."): tensor + 1
        for name, tensor in state.items()
        if name.startswith("text_encoder.")
    }
    clip |= {
        "vision_model.class_embedding": torch.zeros(4),
        "logit_scale": torch.zeros(()),
        "text_projection.weight": torch.zeros(4, 4),
    }
    torch.save(clip, tmp_path / "clip.pt")
    others = {name: t for name, t in state.items() if not name.startswith(("text_encoder", "resizer"))}
    torch.save({"model": others}, tmp_path / "m2f.pkl")
    options = {"family": "vlformer", "variant": "debug"}
    first = convert_file(tmp_path / "clip.pt", tmp_path / "1.safetensors", part="text", **options)
    second = convert_file(
        tmp_path / "m2f.pkl", tmp_path / "2.safetensors", part="mask2former", onto=first.path, **options
    )
    assert (
        second.header.origin["part"]
        == "mask2former; all else from 1.safetensors (text; all else is untrained)"
    )
    model, _ = native.load(second.path)
    assert torch.equal(model.text_tower.final_layer_norm.weight, clip["text_model.final_layer_norm.weight"])
    assert torch.equal(model.backbone.stem.conv.weight, state["backbone.stem.conv1.weight"])


def test_a_part_onto_another_variant_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "m.pth")
    options = {"family": "vlformer", "variant": "debug"}
    ours = convert_file(tmp_path / "m.pth", tmp_path / "1.safetensors", **options).path
    with pytest.raises(InvalidInput, match="is vlformer debug, and the part is for vlformer resnet50"):
        convert_file(
            tmp_path / "m.pth",
            tmp_path / "2.safetensors",
            family="vlformer",
            variant="resnet50",
            part="backbone",
            onto=ours,
        )
    with pytest.raises(InvalidInput, match="name the part"):
        convert_file(tmp_path / "m.pth", tmp_path / "2.safetensors", onto=ours, **options)


def test_a_text_file_that_lacks_a_layer_is_refused():
    with pytest.raises(CheckpointMismatch, match="not the text tower"):
        convert_text({"text_model.final_layer_norm.weight": torch.zeros(16)}, DEBUG)
