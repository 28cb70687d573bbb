"""A file as the authors' training code writes it, of the debug variant's size."""

import argparse
import re

import torch

from refseg.models import catalog
from refseg.models.lgformer.config import VARIANTS
from refseg.models.lgformer.convert import convert

_CONVOLUTIONS = (
    "vis_project.0",
    "lang_project.0",
    "project_mm.0",
    "project_mm.3",
    "sym_project_mm.0",
    "sym_project_mm.3",
)
_ATTENTION = ("query.0", "key", "value", "W.0", "sym_value.0", "sym_W")


def published_names():
    """Every name that a file of the debug variant's depths may hold."""
    model = catalog.build("lgformer", "debug")
    names = [f"text_encoder.{name}" for name in model.text_tower.state_dict()]
    for name in model.backbone.swin.state_dict():
        names.append("backbone." + re.sub(r"^norms\.", "norm", name))
    for stage in range(4):
        there = f"backbone.layers.{stage}"
        parts = [f"{there}.fusion.{part}" for part in _CONVOLUTIONS]
        parts += [f"{there}.fusion.image_lang_att.{part}" for part in _ATTENTION]
        names += [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
        names += [f"{there}.{gate}.{n}.weight" for gate in ("res_gate", "sym_res_gate") for n in (0, 2)]
        names.append(f"{there}.blocks.0.attn.relative_position_index")
    pixels, query = "classifier.pix_dec", "classifier.dynamic_conv_gen"
    encoder = f"{pixels}.transformer.encoder"
    layers = [f"{pixels}.input_proj.{level}.{n}" for level in range(3) for n in (0, 1)]
    layers += [
        f"{pixels}.{part}"
        for part in ("adapter_1.0", "adapter_1.1", "layer_1.0", "layer_1.1", "mask_features")
    ]
    layers += [f"{encoder}.layers.0.{part}" for part in ("norm1", "linear1", "linear2", "norm2")]
    offered = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    layers += [f"{encoder}.layers.0.self_attn.{part}" for part in offered]
    layers += [f"{query}_head.{n}" for n in (0, 2, 4)] + ["classifier.txt_proj"]
    for owner in (f"{encoder}.cross_attn_layers.0", *(f"{query}_body.layers.{n}" for n in range(3))):
        layers += [
            f"{owner}.{part}" for part in ("cross_attn.out_proj", "ffn.0", "ffn.3", "norm_ca", "norm_ffn")
        ]
        bare = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
        names += [f"{owner}.cross_attn.{part}" for part in bare]
    names += [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    names += [f"{pixels}.transformer.level_embed", f"{encoder}.key_embed.weight"]
    return names + [f"{query}_body.{part}_embed.weight" for part in ("query", "level")]


def published_state(model):
    """The weights of a debug model under published names, with those that ours leaves out."""
    own, state = model.state_dict(), {}
    _, report = convert({name: torch.zeros(1, 1, 1) for name in published_names()}, VARIANTS["debug"])
    state |= {name: own[ours] for name, ours in report.renamed.items() if ours in own}
    state |= {parts[0]: own[ours][..., None] for ours, parts in report.merged.items()}
    return state | {name: torch.zeros(3) for name in report.dropped}


def write(path, model, **more):
    """The whole file, with the optimiser, the schedule and the arguments of the run beside the weights."""
    args = argparse.Namespace(swin_type="base", window12=True, mha="", dataset="refcoco", lr=5e-5)
    beside = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 39, "args": args}
    torch.save({"model": published_state(model), **beside, "lr_scheduler": {"last_epoch": 7}, **more}, path)
    return path
