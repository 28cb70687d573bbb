"""Published names to ours.

A published file holds the state under `model`, without a prefix. Names of the text tower stay as on the hub; heads that
layers share without box refinement, and the decoder's own name for the box heads with it, are second names.
"""

from __future__ import annotations

from refseg.models.base import ModelConfig, StateDict
from refseg.models.referformer.config import ReferFormerConfig, ResNetSpec
from refseg.models.renaming import Alias, ConversionReport, Drop, Rename, Rule, apply

_VECTORS = "(weight|bias|running_mean|running_var)"


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The tensors of a published file under our names, and what was done.

    Raises:
        CheckpointMismatch: if two names of one tensor differ.
    """
    assert isinstance(config, ReferFormerConfig)
    return apply(state, rules(config))


def rules(config: ReferFormerConfig) -> list[Rule]:
    """The rules for one configuration; the first that matches a name decides."""
    return [*_leftovers(), *_heads(config), *backbone_rules(config), *_text(), *_transformer(), *_pyramid()]


def _leftovers() -> list[Rule]:
    return [
        Drop(r"(.*\.)?total_(params|ops)", "counters that a profiler left behind"),
        Drop(r".*\.num_batches_tracked", "batch counters, which frozen normalisation does not use"),
        Drop(
            r"text_encoder\.embeddings\.(position_ids|token_type_ids)",
            "a fixed range of numbers, computed when needed",
        ),
        Drop(r".*\.relative_position_index", "fixed indices, computed when needed"),
    ]


def _heads(config: ReferFormerConfig) -> list[Rule]:
    named = {"class_embed": "class_heads", "bbox_embed": "box_heads"}
    second: list[Rule] = [Alias(r"transformer\.decoder\.((?:class|bbox)_embed\..*)", r"\1")]
    if config.refines_boxes:
        return second + [
            Rename(rf"{old}\.(\d+)\.(.*)", rf"decoder.{new}.\1.\2") for old, new in named.items()
        ]
    last = config.num_decoder_layers - 1
    shared: list[Rule] = []
    for old, new in named.items():
        shared.append(Rename(rf"{old}\.{last}\.(.*)", rf"decoder.{new}.0.\1"))
        shared.append(Alias(rf"{old}\.\d+\.(.*)", rf"{old}.{last}.\1"))
    return second + shared


def backbone_rules(config: ReferFormerConfig) -> list[Rule]:
    """The rules of the backbone alone."""
    if isinstance(config.backbone, ResNetSpec):
        return _resnet()
    return [
        Rename(r"backbone\.0\.body\.norm(\d)\.(.*)", r"backbone.norms.\1.\2"),
        Rename(r"backbone\.0\.body\.(.*)", r"backbone.\1"),
    ]


def _resnet() -> list[Rule]:
    stages: list[Rule] = []
    for stage in range(4):
        there, here = rf"backbone\.0\.body\.layer{stage + 1}\.(\d+)", rf"backbone.stages.{stage}.\1"
        stages += [
            Rename(rf"{there}\.conv([123])\.weight", rf"{here}.conv\2.conv.weight"),
            Rename(rf"{there}\.bn([123])\.{_VECTORS}", rf"{here}.conv\2.norm.\3"),
            Rename(rf"{there}\.downsample\.0\.weight", rf"{here}.shortcut.conv.weight"),
            Rename(rf"{there}\.downsample\.1\.{_VECTORS}", rf"{here}.shortcut.norm.\2"),
        ]
    return [
        Rename(r"backbone\.0\.body\.conv1\.weight", "backbone.stem.conv.weight"),
        Rename(rf"backbone\.0\.body\.bn1\.{_VECTORS}", r"backbone.stem.norm.\1"),
        *stages,
    ]


def _text() -> list[Rule]:
    return [
        Rename(r"text_encoder\.(.*)", r"text_tower.\1"),
        Rename(r"resizer\.fc\.(.*)", r"resizer.fc.\1"),
        Rename(r"resizer\.layer_norm\.(.*)", r"resizer.norm.\1"),
    ]


def _transformer() -> list[Rule]:
    encoder, decoder = r"transformer\.encoder\.layers\.(\d+)", r"transformer\.decoder\.layers\.(\d+)"
    ours, theirs = r"encoder.layers.\1", r"decoder.layers.\1"
    return [
        Rename(r"input_proj\.(.*)", r"projections.\1"),
        Rename(r"fusion_module\.multihead_attn\.(.*)", r"fusion.attention.\1"),
        Rename(r"transformer\.level_embed", "encoder.level_embed"),
        Rename(rf"{encoder}\.self_attn\.(.*)", rf"{ours}.attention.\2"),
        Rename(rf"{encoder}\.norm1\.(.*)", rf"{ours}.norm.\2"),
        Rename(rf"{encoder}\.(linear[12])\.(.*)", rf"{ours}.feed_forward.\2.\3"),
        Rename(rf"{encoder}\.norm2\.(.*)", rf"{ours}.feed_forward.norm.\2"),
        Rename(r"query_embed\.weight", "decoder.query_embed.weight"),
        Rename(r"transformer\.reference_points\.(.*)", r"decoder.reference_points.\1"),
        Rename(rf"{decoder}\.self_attn\.(.*)", rf"{theirs}.self_attention.\2"),
        Rename(rf"{decoder}\.norm2\.(.*)", rf"{theirs}.self_norm.\2"),
        Rename(rf"{decoder}\.cross_attn\.(.*)", rf"{theirs}.cross_attention.\2"),
        Rename(rf"{decoder}\.norm1\.(.*)", rf"{theirs}.cross_norm.\2"),
        Rename(rf"{decoder}\.(linear[12])\.(.*)", rf"{theirs}.feed_forward.\2.\3"),
        Rename(rf"{decoder}\.norm3\.(.*)", rf"{theirs}.feed_forward.norm.\2"),
    ]


def _pyramid() -> list[Rule]:
    """The published levels count from 1, the finest; ours from 0."""
    levels: list[Rule] = []
    for level in range(4):
        block, ours = rf"pixel_decoder\.cross_attn_{level + 1}", f"pixel_decoder.blocks.{level}"
        for old, new in (("adapter", "adapters"), ("layer", "layers")):
            there, here = rf"pixel_decoder\.{old}_{level + 1}", f"pixel_decoder.{new}.{level}"
            levels += [
                Rename(rf"{there}\.weight", f"{here}.conv.weight"),
                Rename(rf"{there}\.norm\.(.*)", rf"{here}.norm.\1"),
            ]
        levels += [
            Rename(rf"{block}\.self_attn\.(.*)", rf"{ours}.self_attention.\1"),
            Rename(rf"{block}\.norm1\.(.*)", rf"{ours}.self_norm.\1"),
            Rename(rf"{block}\.multihead_attn\.(.*)", rf"{ours}.cross_attention.\1"),
            Rename(rf"{block}\.norm2\.(.*)", rf"{ours}.cross_norm.\1"),
            Rename(rf"{block}\.(linear[12])\.(.*)", rf"{ours}.feed_forward.\1.\2"),
            Rename(rf"{block}\.norm3\.(.*)", rf"{ours}.feed_forward.norm.\1"),
        ]
    return [
        *levels,
        Rename(r"pixel_decoder\.mask_features\.(.*)", r"pixel_decoder.mask_features.\1"),
        Rename(r"controller\.(.*)", r"mask_head.controller.\1"),
    ]
