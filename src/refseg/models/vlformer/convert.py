"""Published names to ours.

A published file is what detectron2 writes: the state under `model`, without a prefix. A training run may also start from
files of others that name the same parts alike: video Mask2Former (the published start), and ImageNet ResNets in detectron2's
names, with or without `backbone.`, or in Caffe's.
"""

from __future__ import annotations

from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import Drop, Rename, Report, Rule, apply
from refseg.models.vlformer.config import VLFormerConfig

_VECTORS = "(weight|bias|running_mean|running_var)"
_CAFFE_PARTS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, Report]:
    """The tensors of a published file under our names, and what was done."""
    assert isinstance(config, VLFormerConfig)
    return apply(state, rules())


def rules() -> list[Rule]:
    """The rules; the first that matches a name decides."""
    return [*_leftovers(), *_backbone(), *_caffe(), *_text(), *_pixel_decoder(), *_decoder()]


def _leftovers() -> list[Rule]:
    return [
        Drop(r"criterion\.empty_weight", "class weights of the loss, which its configuration holds"),
        Drop(r".*\.position_ids", "a fixed range of numbers, computed when needed"),
        Drop(r".*\.num_batches_tracked", "batch counters, which frozen normalisation does not use"),
        Drop(r"pixel_(mean|std)", "constants of the pixels, which the configuration holds"),
        Drop(r"(stem\.)?fc(1000)?[._](weight|bias|w|b)", "the ImageNet classifier"),
    ]


def _backbone() -> list[Rule]:
    stages: list[Rule] = []
    for stage in range(4):
        there, here = rf"(?:backbone\.)?res{stage + 2}\.(\d+)", rf"backbone.stages.{stage}.\1"
        stages += [
            Rename(rf"{there}\.(conv[123]|shortcut)\.weight", rf"{here}.\2.conv.weight"),
            Rename(rf"{there}\.(conv[123]|shortcut)\.norm\.{_VECTORS}", rf"{here}.\2.norm.\3"),
        ]
    return [
        Rename(r"(?:backbone\.)?stem\.conv1\.weight", "backbone.stem.conv.weight"),
        Rename(rf"(?:backbone\.)?stem\.conv1\.norm\.{_VECTORS}", r"backbone.stem.norm.\1"),
        *stages,
    ]


def _caffe() -> list[Rule]:
    """Blobs of Caffe's ResNets; their normalisation is a scale and a shift, beside means of 0 and variances of 1."""
    blobs: list[Rule] = [
        Rename("conv1_w", "backbone.stem.conv.weight"),
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
