"""Files as others publish them, in the debug variant's widths, made of a model of ours."""

import json
from pathlib import Path

import torch

from refseg.models import catalog

LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def model(variant="debug"):
    torch.manual_seed(5)
    return catalog.build("vpd", variant).eval()


def vpd_checkpoint(state):
    """The names of a published vpd_ris_*.pth, without the text tower."""
    named = {ldm(name, "unet.unet.diffusion_model.", "encoder_vq."): tensor for name, tensor in state.items()}
    named = {name: tensor for name, tensor in named.items() if not name.startswith("text_tower.")}
    unused = {
        "unet.unet.diffusion_model.out.0.weight": torch.ones(32),
        "unet.unet.diffusion_model.out.2.bias": torch.ones(4),
        "encoder_vq.post_quant_conv.weight": torch.ones(4, 4, 1, 1),
    }
    return {name: _as_convolution(name, tensor) for name, tensor in named.items()} | unused


def single_file(state):
    """Stable Diffusion 1.5 as one file: older names, the text tower inside."""
    own = ("gamma", "adapter.", "head.")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(own)}
    named = {ldm(name, "model.diffusion_model.", "first_stage_model."): t for name, t in kept.items()}
    text = "cond_stage_model.transformer.text_model."
    named = {name.replace("text_tower.", text): tensor for name, tensor in named.items()}
    more = {
        "betas": torch.ones(3),
        "sqrt_one_minus_alphas_cumprod": torch.ones(3),
        "posterior_mean_coef1": torch.ones(3),
        "first_stage_model.decoder.conv_in.weight": torch.ones(1),
        f"{text}embeddings.position_ids": torch.arange(77)[None],
        "model_ema.decay": torch.ones(()),
        "model.diffusion_model.out.0.bias": torch.ones(32),
    }
    return {name: _as_convolution(name, tensor) for name, tensor in named.items()} | more


def diffusers_folder(state, folder: Path):
    """Stable Diffusion 1.5 as a folder, the picture encoder with the older names of its attention."""
    from safetensors.torch import save_file

    parts = {
        "unet": {"conv_out.bias": torch.ones(4)},
        "vae": {"decoder.conv_in.bias": torch.ones(1)},
        "text_encoder": {},
    }
    prefixes = {"unet.": "unet", "vae.": "vae", "text_tower.": "text_encoder"}
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for name, tensor in state.items():
        for prefix, part in prefixes.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if part == "vae" and "attentions" in rest:
                    for new, old in older.items():
                        rest = rest.replace(new, old)
                parts[part][f"text_model.{rest}" if part == "text_encoder" else rest] = tensor.contiguous()
    for part, tensors in parts.items():
        (folder / part).mkdir(parents=True)
        file = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(tensors, folder / part / f"{file}.safetensors")
    (folder / "model_index.json").write_text(json.dumps({}))
    return folder


def clip_companion(state):
    """The text tower as the hub has it, with a part of the picture tower."""
    prefix = "text_tower."
    text = {name.replace(prefix, "text_model."): t for name, t in state.items() if name.startswith(prefix)}
    return text | {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.class_embedding": torch.ones(3),
        "logit_scale": torch.ones(()),
    }


def ldm(name: str, unet: str, vae: str) -> str:
    """One of our names in the older form; the opposite way of the rules under test, written apart from them."""
    if name.startswith("head."):
        return name.replace("head.", "classifier.")
    if name.startswith("adapter."):
        return name.replace("adapter.", "text_adapter.")
    if name.startswith("unet."):
        return unet + _ldm_unet(name.removeprefix("unet."))
    return vae + _ldm_vae(name.removeprefix("vae.")) if name.startswith("vae.") else name


def _ldm_unet(name: str) -> str:
    part, *rest = name.split(".")
    if part == "conv_in":
        return ".".join(["input_blocks.0.0", *rest])
    if part == "time_embedding":
        return ".".join(["time_embed", {"linear_1": "0", "linear_2": "2"}[rest[0]], *rest[1:]])
    if part == "mid_block":
        number = {("resnets", "0"): "0", ("attentions", "0"): "1", ("resnets", "1"): "2"}[rest[0], rest[1]]
        return f"middle_block.{number}.{_inside(rest[0], rest[2:])}"
    level, kind, layer, *inner = rest
    level, layer = int(level), int(layer)
    if part == "down_blocks":
        if kind == "downsamplers":
            return ".".join([f"input_blocks.{3 * level + 3}.0.op", *inner[1:]])
        block = f"input_blocks.{3 * level + 1 + layer}"
    else:
        if kind == "upsamplers":
            place = 1 if level == 0 else 2
            return ".".join([f"output_blocks.{3 * level + 2}.{place}.conv", *inner[1:]])
        block = f"output_blocks.{3 * level + layer}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inside(kind, inner)}"


def _inside(kind: str, rest: list[str]) -> str:
    return ".".join([LDM_RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest)


def _ldm_vae(name: str) -> str:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for level in range(4):
        name = name.replace(
            f"encoder.down_blocks.{level}.downsamplers.0.", f"encoder.down.{level}.downsample."
        )
        name = name.replace(f"encoder.down_blocks.{level}.resnets.", f"encoder.down.{level}.block.")
    for number in range(2):
        name = name.replace(f"encoder.mid_block.resnets.{number}.", f"encoder.mid.block_{number + 1}.")
    for new, old in attention.items():
        name = name.replace(f"encoder.mid_block.attentions.0.{new}.", f"encoder.mid.attn_1.{old}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("encoder.conv_norm_out", "encoder.norm_out")


def _as_convolution(name, tensor):
    is_attention = ".mid.attn_1." in name and name.endswith(".weight") and ".norm." not in name
    return tensor[..., None, None] if is_attention else tensor
