"""Published names to ours.

Our names are those that diffusers and transformers give the same weights, below `unet.`, `vae.` and `text_tower.`. A
published file holds its state under `model`, in the older names of latent diffusion, and lacks the text tower. Stable
Diffusion 1.5, from which training starts, comes in those names too (one file) or in those of diffusers (a folder).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import ConversionReport, Drop, Merge, Rename, Rule, apply

_UNET = r"(?:unet\.unet|model)\.diffusion_model\."
_VAE = r"(?:encoder_vq|first_stage_model)\."
_TEXT = r"(?:text_encoder/|cond_stage_model\.transformer\.)?(?:text_model\.)?"
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The tensors of a published file under our names, and what was done."""
    return apply(state, rules())


def rules() -> list[Rule]:
    """The first rule that matches a name decides."""
    return [*_left_out(), *_text(), *_diffusers(), *_unet(), *_vae(), *_own()]


def _left_out() -> list[Rule]:
    diffusers_out = r"unet/conv(?:_norm)?_out\..*"
    return [
        Drop(rf"{_UNET}out\..*|{diffusers_out}", "the layers that would predict noise, which never run"),
        Drop(
            rf"(?:{_VAE}|vae/)(?:post_quant_conv|decoder|loss)\..*",
            "the image decoder, which VPD does without",
        ),
        Drop(r"safety_checker/.*", "a part of Stable Diffusion's that judges pictures it has drawn"),
        Drop(r"model_ema\..*", "averages of training, beside the weights themselves"),
        Drop(
            r"(?:(?:sqrt_|log_|posterior_)?[a-z_0-9]*(?:alphas|betas|posterior)[a-z_0-9]*|logvar|scale_factor)",
            "the schedule of noise, of which none is added",
        ),
    ]


def _text() -> list[Rule]:
    """The tower as the hub names it, alone, as a part of CLIP, or as a part of Stable Diffusion."""
    inside = r"(?:embeddings|encoder|final_layer_norm)\."
    return [
        Drop(rf"{_TEXT}embeddings\.position_ids", "a fixed range of numbers, computed when needed"),
        Drop(
            r"vision_model\..*|(?:visual|text)_projection\..*|logit_scale",
            "CLIP's pictures, which VPD does not look at",
        ),
        Rename(rf"{_TEXT}({inside}.*)", r"text_tower.\1"),
    ]


def _diffusers() -> list[Rule]:
    """Names of today, and those of a picture encoder's attention that older files have."""
    middle = r"vae/encoder\.mid_block\.attentions\.0\."
    older = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return [
        Rename(r"unet/(.*)", r"unet.\1"),
        *(
            Rename(rf"{middle}{old}\.(.*)", rf"vae.encoder.mid_block.attentions.0.{new}.\1")
            for old, new in older.items()
        ),
        Rename(r"vae/((?:encoder|quant_conv)\..*)", r"vae.\1"),
    ]


def _own() -> list[Rule]:
    return [
        Rename(r"gamma", "gamma"),
        Rename(r"text_adapter\.(fc\..*)", r"adapter.\1"),
        Rename(r"classifier\.(.*)", r"head.\1"),
    ]


def _unet() -> list[Rule]:
    """Published blocks are numbered through; here they are counted level by level."""
    found: list[Rule] = [
        Rename(rf"{_UNET}time_embed\.0\.(.*)", r"unet.time_embedding.linear_1.\1"),
        Rename(rf"{_UNET}time_embed\.2\.(.*)", r"unet.time_embedding.linear_2.\1"),
        Rename(rf"{_UNET}input_blocks\.0\.0\.(.*)", r"unet.conv_in.\1"),
    ]
    for number in range(1, 12):
        level, layer = divmod(number - 1, 3)
        there, here = rf"{_UNET}input_blocks\.{number}", f"unet.down_blocks.{level}"
        if layer == 2:
            found.append(Rename(rf"{there}\.0\.op\.(.*)", rf"{here}.downsamplers.0.conv.\1"))
        else:
            found += _layer(there, f"{here}.resnets.{layer}", f"{here}.attentions.{layer}")
    found += _resnet(rf"{_UNET}middle_block\.0", "unet.mid_block.resnets.0")
    found += _attention(rf"{_UNET}middle_block\.1", "unet.mid_block.attentions.0")
    found += _resnet(rf"{_UNET}middle_block\.2", "unet.mid_block.resnets.1")
    for number in range(12):
        level, layer = divmod(number, 3)
        there, here = rf"{_UNET}output_blocks\.{number}", f"unet.up_blocks.{level}"
        found.append(Rename(rf"{there}\.[12]\.conv\.(.*)", rf"{here}.upsamplers.0.conv.\1"))
        found += _layer(there, f"{here}.resnets.{layer}", f"{here}.attentions.{layer}")
    return found


def _layer(there: str, resnet: str, attention: str) -> list[Rule]:
    return [*_resnet(rf"{there}\.0", resnet), *_attention(rf"{there}\.1", attention)]


def _resnet(there: str, here: str) -> list[Rule]:
    return [
        Rename(rf"{there}\.{old.replace('.', chr(92) + '.')}\.(.*)", rf"{here}.{new}.\1")
        for old, new in _RESNET.items()
    ]


def _attention(there: str, here: str) -> list[Rule]:
    return [Rename(rf"{there}\.((?:norm|proj_in|proj_out|transformer_blocks)\..*)", rf"{here}.\1")]


def _vae() -> list[Rule]:
    there, here = rf"{_VAE}encoder\.", "vae.encoder."
    found: list[Rule] = []
    shortcut = (r"nin_shortcut\.(.*)", "conv_shortcut")
    down = rf"{there}down\.(\d)\.block\.(\d)\."
    found.append(Rename(down + shortcut[0], rf"{here}down_blocks.\1.resnets.\2.{shortcut[1]}.\3"))
    found.append(Rename(rf"{down}(.*)", rf"{here}down_blocks.\1.resnets.\2.\3"))
    found.append(Rename(rf"{there}down\.(\d)\.downsample\.(.*)", rf"{here}down_blocks.\1.downsamplers.0.\2"))
    for number in (1, 2):
        block = f"{here}mid_block.resnets.{number - 1}"
        found.append(Rename(rf"{there}mid\.block_{number}\.(.*)", rf"{block}.\1"))
    middle = rf"{there}mid\.attn_1\."
    for old, new in {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}.items():
        ours = f"{here}mid_block.attentions.0.{new}"
        found.append(Merge(rf"{middle}{old}\.weight", (), f"{ours}.weight", _as_linear))
        found.append(Rename(rf"{middle}{old}\.bias", f"{ours}.bias"))
    return [
        *found,
        Rename(rf"{middle}norm\.(.*)", rf"{here}mid_block.attentions.0.group_norm.\1"),
        Rename(rf"{there}norm_out\.(.*)", rf"{here}conv_norm_out.\1"),
        Rename(rf"{there}(conv_(?:in|out)\..*)", rf"{here}\1"),
        Rename(rf"{_VAE}(quant_conv\..*)", r"vae.\1"),
    ]


def _as_linear(parts: Sequence[Tensor]) -> Tensor:
    """A 1x1 convolution [C, C, 1, 1] is the linear layer [C, C]; the file's memory is used on."""
    return parts[0].flatten(1)
