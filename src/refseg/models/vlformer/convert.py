"""Published names to ours.

A published file is what detectron2 writes: the state under `model`, without a prefix. Three other kinds of file are known by
their names, because a training run starts from them: video Mask2Former, which names most parts alike (the published start),
an ImageNet ResNet in detectron2's names or in Caffe's, and CLIP as on the hub, whose text tower is taken. Of the first two
what fits is taken, and what does not is dropped with the reason.
"""

from __future__ import annotations

import re

import torch

from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import ConversionReport, Drop, Rename, Rule, apply
from refseg.models.vlformer.config import VLFormerConfig
from refseg.models.vlformer.model import VLFormer

TEXT = r"^text_tower\."  # our names of what a start takes from CLIP's own file
_VECTORS = "(weight|bias|running_mean|running_var)"
_STEM = "backbone.stem.conv.weight"
_CAFFE_PARTS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The tensors of a published file, or of one to start from, under our names, and what was done."""
    assert isinstance(config, VLFormerConfig)
    if any(name.startswith("resizer.") for name in state):
        return apply(state, [*_leftovers(), *_published()])
    if any(name.startswith("sem_seg_head.") for name in state):
        return _what_fits(*apply(state, [*_leftovers(), *_published()]), config)
    if any(name.startswith("text_model.") for name in state):
        return apply(state, [*_leftovers(), *_clip()])
    if any(re.match(r"(backbone\.)?(stem\.|res\d\.)|conv1_w$", name) for name in state):
        return _resnet(state, config)
    return apply(state, [*_leftovers(), *_published()])


def first_values(config: ModelConfig) -> StateDict:
    """First values of everything but the text tower, for what a start does not give."""
    assert isinstance(config, VLFormerConfig)
    values = VLFormer(config).state_dict()
    return {name: value for name, value in values.items() if not re.search(TEXT, name)}


def _what_fits(
    converted: StateDict, report: ConversionReport, config: VLFormerConfig
) -> tuple[StateDict, ConversionReport]:
    """Only tensors whose name and shape the model has; the others are dropped, each with the reason."""
    with torch.device("meta"):
        wanted = VLFormer(config).state_dict()
    for published, name in list(report.renamed.items()):
        given = converted[name].shape
        if name in wanted and wanted[name].shape == given:
            continue
        del converted[name], report.renamed[published]
        report.dropped[published] = (
            f"of another shape: {_sides(given)}, the model has {_sides(wanted[name].shape)}"
            if name in wanted
            else "a layer more than the model has"
        )
    report.dropped |= dict.fromkeys(report.left, "a part that the model does not have")
    report.left = []
    return converted, report


def _resnet(state: StateDict, config: VLFormerConfig) -> tuple[StateDict, ConversionReport]:
    """An ImageNet ResNet: detectron2's names, with or without `backbone.`, or Caffe's blobs.

    Caffe's network sees blue first and pixels that are not divided by their spread; its stem is turned to compute the same of
    ours. Its strides lie in the first convolution of a block instead of the second: a start, not the same network.
    """
    renames = [*_leftovers(), *_backbone(r"(?:backbone\.)?"), *_caffe()]
    converted, report = _what_fits(*apply(state, renames), config)
    if "conv1_w" in report.renamed:
        spread = 255 * torch.tensor(config.frame.std).view(3, 1, 1)
        converted[_STEM] = converted[_STEM].flip(1) * spread
    # Normalisations of these files may be a scale and a shift alone, beside a mean of 0 and a variance of 1.
    for name, scale in list(converted.items()):
        if name.endswith(".norm.weight"):
            start = name.removesuffix("weight")
            converted.setdefault(f"{start}running_mean", torch.zeros_like(scale))
            converted.setdefault(f"{start}running_var", torch.ones_like(scale))
    return converted, report


def _sides(shape: torch.Size) -> str:
    return "x".join(map(str, shape))


def _published() -> list[Rule]:
    """The rules; the first that matches a name decides."""
    return [*_backbone(r"backbone\."), *_text(), *_pixel_decoder(), *_decoder()]


def _clip() -> list[Rule]:
    others = r"(vision_model\..*|(visual|text)_projection\..*|logit_scale)"
    return [
        Drop(others, "a part of CLIP that the model does not use"),
        Rename(r"text_model\.(.*)", r"text_tower.\1"),
    ]


def _leftovers() -> list[Rule]:
    return [
        Drop(r"criterion\.empty_weight", "class weights of the loss, which its configuration holds"),
        Drop(r".*\.position_ids", "a fixed range of numbers, computed when needed"),
        Drop(r".*\.num_batches_tracked", "batch counters, which frozen normalisation does not use"),
        Drop(r"pixel_(mean|std)", "constants of the pixels, which the configuration holds"),
        Drop(r"(stem\.)?fc(1000)?[._](weight|bias|w|b)", "the ImageNet classifier"),
    ]


def _backbone(prefix: str) -> list[Rule]:
    """ResNets by detectron2's names; `prefix` is a pattern."""
    stages: list[Rule] = []
    for stage in range(4):
        there, here = rf"{prefix}res{stage + 2}\.(\d+)", rf"backbone.stages.{stage}.\1"
        stages += [
            Rename(rf"{there}\.(conv[123]|shortcut)\.weight", rf"{here}.\2.conv.weight"),
            Rename(rf"{there}\.(conv[123]|shortcut)\.norm\.{_VECTORS}", rf"{here}.\2.norm.\3"),
        ]
    return [
        Rename(rf"{prefix}stem\.conv1\.weight", _STEM),
        Rename(rf"{prefix}stem\.conv1\.norm\.{_VECTORS}", r"backbone.stem.norm.\1"),
        *stages,
    ]


def _caffe() -> list[Rule]:
    """Blobs of Caffe's ResNets; their normalisation is a scale and a shift, beside means of 0 and variances of 1."""
    blobs: list[Rule] = [
        Rename("conv1_w", _STEM),
        Rename("res_conv1_bn_s", "backbone.stem.norm.weight"),
        Rename("res_conv1_bn_b", "backbone.stem.norm.bias"),
        Drop("conv1_b", "the stem's bias, which is 0 in these files"),
    ]
    for stage in range(4):
        for branch, part in _CAFFE_PARTS.items():
            there, here = rf"res{stage + 2}_(\d+)_{branch}", rf"backbone.stages.{stage}.\1.{part}"
            blobs += [
                Rename(rf"{there}_w", f"{here}.conv.weight"),
                Rename(rf"{there}_bn_s", f"{here}.norm.weight"),
                Rename(rf"{there}_bn_b", f"{here}.norm.bias"),
            ]
    return blobs


def _text() -> list[Rule]:
    return [
        Rename(r"text_encoder\.text_model\.(.*)", r"text_tower.\1"),
        Rename(r"resizer\.layers\.0\.(.*)", r"resizer.\1"),
    ]


def _pixel_decoder() -> list[Rule]:
    """The published fusions count from 1, the coarsest; ours from 0."""
    there, here = r"sem_seg_head\.pixel_decoder", "pixel_decoder"
    layer, ours = rf"{there}\.transformer\.encoder\.layers\.(\d+)", rf"{here}.layers.\1"
    renames: list[Rule] = [
        Rename(rf"{there}\.input_proj\.(\d)\.0\.(.*)", rf"{here}.projections.\1.conv.\2"),
        Rename(rf"{there}\.input_proj\.(\d)\.1\.(.*)", rf"{here}.projections.\1.norm.\2"),
        Rename(rf"{there}\.transformer\.level_embed", f"{here}.level_embed"),
        Rename(rf"{layer}\.self_attn\.(.*)", rf"{ours}.attention.\2"),
        Rename(rf"{layer}\.norm1\.(.*)", rf"{ours}.norm.\2"),
        Rename(rf"{layer}\.(linear[12])\.(.*)", rf"{ours}.feed_forward.\2.\3"),
        Rename(rf"{layer}\.norm2\.(.*)", rf"{ours}.feed_forward.norm.\2"),
        Rename(rf"{there}\.mask_features\.(.*)", rf"{here}.mask_features.\1"),
    ]
    for level in range(3):
        fusion = rf"{there}\.fusion_{level + 1}\.multihead_attn"
        renames.append(Rename(rf"{fusion}\.(.*)", rf"{here}.fusions.{level}.attention.\1"))
    for old, new in (("adapter_1", "adapter"), ("layer_1", "smooth")):
        renames += [
            Rename(rf"{there}\.{old}\.weight", f"{here}.{new}.conv.weight"),
            Rename(rf"{there}\.{old}\.norm\.(.*)", rf"{here}.{new}.norm.\1"),
        ]
    return renames


def _decoder() -> list[Rule]:
    there = r"sem_seg_head\.predictor"
    parts = {
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.*)": "visual_attention",
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn_text\.(.*)": "word_attention",
        r"transformer_cross_attention_layers\.(\d+)\.norm\.(.*)": "cross_norm",
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.*)": "self_attention",
        r"transformer_self_attention_layers\.(\d+)\.norm\.(.*)": "self_norm",
        r"transformer_ffn_layers\.(\d+)\.norm\.(.*)": "hidden_norm",
    }
    return [
        *(Rename(rf"{there}\.{old}", rf"decoder.layers.\1.{new}.\2") for old, new in parts.items()),
        Rename(rf"{there}\.transformer_ffn_layers\.(\d+)\.(linear[12])\.(.*)", r"decoder.layers.\1.\2.\3"),
        Rename(rf"{there}\.decoder_norm\.(.*)", r"decoder.norm.\1"),
        Rename(rf"{there}\.(query_feat|query_embed|level_embed)\.weight", r"decoder.\1.weight"),
        Rename(rf"{there}\.class_embed\.(.*)", r"decoder.class_embed.\1"),
        Rename(rf"{there}\.mask_embed\.layers\.(.*)", r"decoder.mask_embed.layers.\1"),
    ]
