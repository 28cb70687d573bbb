"""Published names to ours.

A published file holds the whole model under `model`, without a prefix. Names of the text tower stay as on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from refseg.models.base import ModelConfig, StateDict
from refseg.models.lgformer.config import LGFormerConfig
from refseg.models.renaming import ConversionReport, Drop, Merge, Rename, Rule, apply

_FUSION = {
    "vis_project.0": "own_pixels",
    "lang_project.0": "own_words",
    "image_lang_att.query.0": "query",
    "image_lang_att.key": "key",
    "image_lang_att.value": "word_value",
    "image_lang_att.W.0": "mix_words",
    "image_lang_att.sym_value.0": "pixel_value",
    "image_lang_att.sym_W": "mix_pixels",
    "project_mm.0": "join_pixels",
    "project_mm.3": "out_pixels",
    "sym_project_mm.0": "join_words",
    "sym_project_mm.3": "out_words",
}


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The tensors of a published file under our names, and what was done."""
    assert isinstance(config, LGFormerConfig)
    return apply(state, rules(config))


def rules(config: LGFormerConfig) -> list[Rule]:
    """The rules for one configuration; the first that matches a name decides."""
    last = len(config.backbone.depths) - 1
    return [
        Drop(r".*\.relative_position_index", "fixed indices, computed when needed"),
        Drop(
            r"text_encoder\.embeddings\.(position_ids|token_type_ids)",
            "a fixed range of numbers, computed when needed",
        ),
        Drop(
            rf"backbone\.layers\.{last}\.(sym_)?res_gate\..*", "gates of the last stage, which decide nothing"
        ),
        Drop(
            r"backbone\.layers\.\d+\.fusion\.image_lang_att\.(query|W|sym_value)\.0\.bias",
            "biases that the normalisation over positions takes away",
        ),
        *_backbone(),
        *_pixel_decoder(),
        *_query_decoder(),
        Rename(r"text_encoder\.(.*)", r"text_tower.\1"),
    ]


def _backbone() -> list[Rule]:
    stage = r"backbone\.layers\.(\d+)"
    fusions: list[Rule] = []
    for theirs, ours in _FUSION.items():
        there = rf"{stage}\.fusion\.{re.escape(theirs)}"
        fusions += [
            # A convolution of width 1 is a linear layer.
            Merge(rf"{there}\.weight", (), rf"backbone.fusions.\1.{ours}.weight", _without_last_axis),
            Rename(rf"{there}\.bias", rf"backbone.fusions.\1.{ours}.bias"),
        ]
    gates: list[Rule] = []
    for theirs, ours in (("res_gate", "gates"), ("sym_res_gate", "text_gates")):
        gates += [
            Rename(rf"{stage}\.{theirs}\.0\.weight", rf"backbone.{ours}.\1.first.weight"),
            Rename(rf"{stage}\.{theirs}\.2\.weight", rf"backbone.{ours}.\1.second.weight"),
        ]
    return [
        *fusions,
        *gates,
        Rename(r"backbone\.norm(\d+)\.(.*)", r"backbone.swin.norms.\1.\2"),
        Rename(r"backbone\.(patch_embed|layers)\.(.*)", r"backbone.swin.\1.\2"),
    ]


def _pixel_decoder() -> list[Rule]:
    there = r"classifier\.pix_dec"
    deformable, text = (
        rf"{there}\.transformer\.encoder\.layers\.(\d+)",
        rf"{there}\.transformer\.encoder\.cross_attn_layers\.(\d+)",
    )
    layer = r"pixel_decoder.layers.\1"
    names = {"0": "conv", "1": "norm"}
    convolutions: list[Rule] = []
    for number, ours in names.items():
        convolutions += [
            Rename(
                rf"{there}\.input_proj\.(\d+)\.{number}\.(.*)", rf"pixel_decoder.projections.\1.{ours}.\2"
            ),
            Rename(rf"{there}\.adapter_1\.{number}\.(.*)", rf"pixel_decoder.adapter.{ours}.\1"),
            Rename(rf"{there}\.layer_1\.{number}\.(.*)", rf"pixel_decoder.layer.{ours}.\1"),
        ]
    return [
        *convolutions,
        Rename(rf"{there}\.mask_features\.(.*)", r"pixel_decoder.mask_features.\1"),
        Rename(rf"{there}\.transformer\.level_embed", "pixel_decoder.level_embed"),
        Rename(rf"{there}\.transformer\.encoder\.key_embed\.weight", "pixel_decoder.key_embed.weight"),
        Rename(rf"{deformable}\.self_attn\.(.*)", rf"{layer}.attention.\2"),
        Rename(rf"{deformable}\.norm1\.(.*)", rf"{layer}.norm.\2"),
        Rename(rf"{deformable}\.(linear[12])\.(.*)", rf"{layer}.feed_forward.\2.\3"),
        Rename(rf"{deformable}\.norm2\.(.*)", rf"{layer}.feed_forward.norm.\2"),
        *_attention_layer(text, r"pixel_decoder.text_layers.\1"),
    ]


def _query_decoder() -> list[Rule]:
    there = r"classifier\.dynamic_conv_gen"
    return [
        Rename(r"classifier\.txt_proj\.(.*)", r"query_decoder.text_projection.\1"),
        Rename(rf"{there}_body\.((?:query|level)_embed\.weight)", r"query_decoder.\1"),
        *_attention_layer(rf"{there}_body\.layers\.(\d+)", r"query_decoder.layers.\1"),
        *(
            Rename(rf"{there}_head\.{2 * number}\.(.*)", rf"query_decoder.head.layers.{number}.\1")
            for number in range(3)
        ),
    ]


def _attention_layer(there: str, ours: str) -> list[Rule]:
    """The layer that encoder and decoder have alike: cross-attention, then a feed-forward network."""
    return [
        Rename(rf"{there}\.cross_attn\.(.*)", rf"{ours}.attention.\2"),
        Rename(rf"{there}\.norm_ca\.(.*)", rf"{ours}.norm.\2"),
        Rename(rf"{there}\.ffn\.0\.(.*)", rf"{ours}.feed_forward.linear1.\2"),
        Rename(rf"{there}\.ffn\.3\.(.*)", rf"{ours}.feed_forward.linear2.\2"),
        Rename(rf"{there}\.norm_ffn\.(.*)", rf"{ours}.feed_forward.norm.\2"),
    ]


def _without_last_axis(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].squeeze(-1)
