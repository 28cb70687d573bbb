"""Published names, and the files that a training run starts from."""

import pickle
import re

import numpy as np
import pytest
import torch

from refseg.checkpoints import native
from refseg.checkpoints.conversion import convert as convert_file
from refseg.encoders.tokenizers.clip import clip_byte_tokenizer
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.models import catalog
from refseg.models.vlformer.config import VARIANTS
from refseg.models.vlformer.convert import convert

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
    _, report = convert(state | {"sem_seg_head.predictor.memory.weight": torch.ones(1)}, DEBUG)
    assert report.left == ["sem_seg_head.predictor.memory.weight"]


OPTIONS = {"family": "vlformer", "variant": "debug"}


@pytest.fixture
def clip(state, tmp_path):
    """CLIP's own file, with another text tower than `state` has."""
    text = {n.removeprefix("text_encoder."): t + 1 for n, t in state.items() if n.startswith("text_encoder.")}
    others = {"vision_model.class_embedding": 4, "text_projection.weight": 4, "logit_scale": 1}
    torch.save(text | {name: torch.zeros(size) for name, size in others.items()}, tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def mask2former(state):
    """The parts of a video Mask2Former: no words, more queries, classes and layers."""
    given = {name: t for name, t in state.items() if not name.startswith(("text_encoder", "resizer"))}
    given = {name: t for name, t in given.items() if "fusion_" not in name and "_text." not in name}
    given |= {
        f"{_QUERIES}.query_feat.weight": torch.zeros(100, 64),
        f"{_QUERIES}.class_embed.weight": torch.zeros(41, 64),
        f"{_QUERIES}.transformer_ffn_layers.3.linear1.weight": torch.zeros(48, 64),
        "criterion.empty_weight": torch.zeros(41),
        f"{_PIXELS}.extra.weight": torch.zeros(1),
    }
    return given


def test_mask2former_gives_what_fits_and_the_rest_is_told(state, clip, tmp_path):
    given = mask2former(state)
    (tmp_path / "m2f.pkl").write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in given.items()}}))
    done = convert_file(
        tmp_path / "m2f.pkl", tmp_path / "o.safetensors", part="mask2former", companion=clip, **OPTIONS
    )
    dropped, fresh = done.report.dropped, set(done.report.fresh)
    assert dropped[f"{_QUERIES}.query_feat.weight"] == "of another shape: 100x64, the model has 5x64"
    assert "of another shape" in dropped[f"{_QUERIES}.class_embed.weight"]
    assert "layer more" in dropped[f"{_QUERIES}.transformer_ffn_layers.3.linear1.weight"]
    assert "does not have" in dropped[f"{_PIXELS}.extra.weight"]
    assert {"decoder.query_feat.weight", "decoder.class_embed.weight", "resizer.weight"} <= fresh
    assert "pixel_decoder.fusions.0.attention.in_proj_weight" in fresh
    assert "decoder.layers.0.word_attention.in_proj_weight" in fresh
    assert not any(name.startswith(("backbone.", "text_tower.")) for name in fresh)
    ours = native.load(done.path)[0].state_dict()
    assert torch.equal(ours["decoder.class_embed.bias"], state[f"{_QUERIES}.class_embed.bias"])
    text = torch.load(clip)["text_model.final_layer_norm.weight"]
    assert torch.equal(ours["text_tower.final_layer_norm.weight"], text)
    taken = {name for name in done.report.renamed.values() if not name.startswith("text_tower.")}
    assert len(taken) + len(dropped) == len(given)


def test_a_start_is_no_whole_checkpoint(state, clip, tmp_path):
    torch.save({"model": mask2former(state)}, tmp_path / "m2f.pth")
    with pytest.raises(CheckpointMismatch, match=r"lacks.*decoder\."):
        convert_file(tmp_path / "m2f.pth", tmp_path / "o.safetensors", companion=clip, **OPTIONS)


def test_a_start_without_clip_says_where_it_comes_from(state, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    torch.save({"model": mask2former(state)}, tmp_path / "m2f.pth")
    with pytest.raises(
        InvalidInput, match=r"lacks CLIP's text tower.*openai/clip-vit-base-patch16.*--companion"
    ):
        convert_file(tmp_path / "m2f.pth", tmp_path / "o.safetensors", part="mask2former", **OPTIONS)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_an_imagenet_resnet_in_detectron2s_names_is_a_start(state, prefix):
    names = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    given = {prefix + name.removeprefix("backbone."): tensor for name, tensor in names.items()}
    given |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    converted, report = convert(given, DEBUG)
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
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


def test_caffes_resnet_computes_the_same_stem_of_our_pixels(state, clip, tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": caffe(state)}))
    done = convert_file(
        tmp_path / "R-50.pkl", tmp_path / "o.safetensors", part="backbone", companion=clip, **OPTIONS
    )
    assert not any(name.startswith("backbone.") for name in done.report.fresh)
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


def test_a_published_file_may_leave_the_text_tower_to_clip(state, clip, tmp_path):
    lean = {name: tensor for name, tensor in state.items() if not name.startswith("text_encoder.")}
    torch.save({"model": lean}, tmp_path / "lean.pth")
    done = convert_file(tmp_path / "lean.pth", tmp_path / "o.safetensors", companion=clip, **OPTIONS)
    assert done.report.fresh == []
