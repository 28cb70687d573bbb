"""Cases of VPD: published names -> convert -> build -> strict load -> verbs -> outputs."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.case import Case, Comparison, NotBuilt
from parity.fill import fill
from refseg.encoders.clip_text import ClipTextSpec
from refseg.framing import place_frames, valid_area
from refseg.models import catalog
from refseg.models.vpd import config as settings
from refseg.models.vpd.family import FAMILY
from refseg.models.vpd.head import resize_maps
from refseg.models.vpd.unet import MAP_LAYERS
from refseg.structures import Clips, Placement, Targets, TextTokens
from refseg.training.optimizer import build_optimizer, schedule_ratio, set_learning_rate
from refseg.training.schema import OptimizerConfig, ScheduleConfig

SHARE_OF_MASK = 0.0005  # of the pixels of a mask may differ, where the case's tolerance says so


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if "out/image_mean" in case.arrays or any(name.startswith("out/input_ids_") for name in case.arrays):
        from parity import vpd_plain

        return vpd_plain.run(case)
    if not case.manifest.get("state_dict"):
        raise NotBuilt(f"a VPD case with the arrays {sorted(case.arrays)}")
    if not case.arrays:
        return run_layout(case)
    return run_training(case) if "out/loss" in case.arrays else run_forward(case)


# Configuration


def text_of(told: dict[str, Any], entries: dict[str, Any], tokenizer: str = "bytes") -> ClipTextSpec:
    """The tower that a case tells of; what it does not tell, the shapes of its tensors do."""
    prefix = "text_model.embeddings"
    vocabulary, _ = entries[f"{prefix}.token_embedding.weight"]["shape"]
    positions, _ = entries[f"{prefix}.position_embedding.weight"]["shape"]
    return ClipTextSpec(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        width=told["hidden"],
        num_layers=told["layers"],
        num_heads=told["heads"],
        hidden_dim=told["inter"],
        num_positions=positions,
    )


def config_of(case: Case) -> settings.VPDConfig:
    """The configuration that a manifest tells in the published code's words."""
    told = case.config
    assert told["timestep"] == 1
    assert told["latent_scale"] == 1.0
    entries = case.manifest.get("text_state_dict")
    text = text_of(told["text"], entries) if entries else _text_without_entries(told)
    return settings.VPDConfig(
        frame=dataclasses.replace(settings.SQUARE_FRAMES, size=told["input_size"]),
        text=text,
        num_tokens=told["token_length"],
        unet_width=told["model_channels"],
        num_heads=told["num_heads"],
        vae_width=told["vae_ch"],
    )


def _text_without_entries(told: dict[str, Any]) -> ClipTextSpec:
    text = told["text"]
    return ClipTextSpec(
        width=text["hidden"], num_layers=text["layers"], num_heads=text["heads"], hidden_dim=text["inter"]
    )


# The road


def text_weights(case: Case) -> dict[str, Tensor]:
    """The companion of the checkpoint: the text tower under the hub's names."""
    entries = case.manifest.get("text_state_dict", {})
    values = {name: torch.from_numpy(np.asarray(value)) for name, value in fill(entries).items()}
    rest = {name: torch.zeros(entry["shape"], dtype=torch.int64) for name, entry in entries.items()}
    return {name: values.get(name, rest[name]) for name in entries}


def load(case: Case, state: dict[str, Tensor]) -> tuple[torch.nn.Module, dict[str, str]]:
    """The model with the case's weights, in evaluation mode, and published names to ours."""
    config = config_of(case)
    converted, report = FAMILY.convert(state, config)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        model = catalog.build("vpd", config)
    model.load_state_dict(converted, strict=True, assign=True)
    for name, parameter in model.named_parameters():  # assigning forgets what the family freezes
        parameter.requires_grad_(not name.startswith(("vae.", "text_tower.")))
    names = dict(report.renamed) | {parts[0]: ours for ours, parts in report.merged.items()}
    return model.eval(), names


def run_layout(case: Case) -> None:
    """Names and shapes alone: the conversion is complete in both directions."""
    entries = case.manifest["state_dict"]
    shapes = dict(case.shapes())
    whole = _whole_config(case)
    with torch.device("meta"):
        wanted = catalog.build("vpd", whole).state_dict()
    converted, report = FAMILY.convert(shapes, whole)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    is_text = all(name.startswith("text_model.") for name in entries)
    expected = {name for name in wanted if name.startswith("text_tower.") == is_text}
    assert set(converted) == expected, f"{case.id}: {sorted(set(converted) ^ expected)[:8]}"
    wrong = [name for name in expected if converted[name].shape != wanted[name].shape]
    assert not wrong, f"{case.id}: shapes differ of {wrong[:8]}"
    _compare_names(case, dict(report.renamed) | {parts[0]: ours for ours, parts in report.merged.items()})


def _compare_names(case: Case, names: dict[str, str]) -> None:
    """Ours are those of diffusers, as the list beside the case says, where there is one."""
    path = case.path.parent / "keymap-diffusers.json"
    if not path.exists() or "gamma" not in names:
        return
    prefixes = {"unet": "unet.", "vae": "vae.", "head": ""}
    own = {"text_adapter.": "adapter.", "classifier.": "head."}
    for name, told in json.loads(path.read_text())["map"].items():
        expected = prefixes[told["to"]] + told["key"]
        if told["to"] == "head":
            for old, new in own.items():
                expected = re.sub(f"^{re.escape(old)}", new, expected)
        unused = told["key"].startswith(("conv_norm_out.", "conv_out.", "post_quant_conv."))
        assert names.get(name) == (None if unused else expected), f"{name}: {names.get(name)}, not {expected}"


def _whole_config(case: Case) -> settings.VPDConfig:
    told = case.config
    if "model_channels" in told:
        return config_of(case)
    text = dataclasses.replace(
        settings.CLIP_LARGE_TEXT,
        width=told["hidden"],
        num_layers=told["layers"],
        num_heads=told["heads"],
        hidden_dim=told["inter"],
    )
    return settings.VPDConfig(text=text)


def clips_of(case: Case, spec) -> tuple[Clips, list[Placement]]:
    """The case's pictures on their canvas, and where they lie."""
    frames = case.tensor("in/image").permute(0, 3, 1, 2)
    placed = [place_frames(picture[None], spec) for picture in frames]
    clips = Clips(
        torch.stack([pixels for pixels, _ in placed]),
        torch.stack([valid_area(where) for _, where in placed]),
        torch.tensor([where.content for _, where in placed]),
    )
    return clips, [where for _, where in placed]


def tokens_of(case: Case) -> TextTokens:
    values = case.tensor("in/input_ids")
    return TextTokens(values, torch.ones_like(values, dtype=torch.bool))


def weights(case: Case) -> dict[str, Tensor]:
    """The checkpoint and its companion as one state."""
    return case.filled() | text_weights(case)


def run_forward(case: Case) -> None:
    """The three verbs, and the masks that users get."""
    model, _ = load(case, weights(case))
    clips, placements = clips_of(case, model.config.frame)
    with torch.no_grad(), recorded(model) as seen:
        visual, text = model.encode_visual(clips), model.encode_text(tokens_of(case))
        output = model.segment(visual, text)
        masks = model.finish(output, placements, at="canvas")
    logits = resize_maps(seen["mid/head/logits"], placements[0].canvas)
    torch.testing.assert_close(
        resize_maps(output.mask_logits[:, :, 0], placements[0].canvas)[:, 0], logits[:, 1] - logits[:, 0]
    )
    mask = torch.stack([row[0] for row in masks])
    computed = seen | {
        "mid/text": model.text_tower(tokens_of(case).values),
        "mid/latents": visual.maps[0][:, 0],
        "mid/context": text.tokens,
        "out/logits": logits,
    }
    _check(case, computed, mask)


def _check(case: Case, computed: dict[str, Tensor], mask: Tensor) -> None:
    """As the case stores them: parts of arrays, packed masks, a share of mask pixels that may differ."""
    kept = {}
    for name, value in computed.items():
        kept[name] = _as_stored(value, case.arrays[name].shape) if name in case.arrays else value
    expected = case.arrays["out/mask"]
    packed = expected.shape != tuple(mask.shape)
    wanted = np.unpackbits(expected, axis=-1)[..., : mask.shape[-1]] if packed else expected
    apart = torch.from_numpy(mask.numpy() != (wanted > 0))
    limits = case.manifest["tolerance"]
    allowed = SHARE_OF_MASK if "mask" in limits else 0.0
    share = float(apart.double().mean())
    assert share <= allowed, f"{case.id}: {share:.4%} of the mask's pixels differ"
    Comparison(case, kept | {"out/mask": expected}).check()  # the mask was compared above
    for name in (name for name in case.arrays if name.startswith("mid/")):
        assert name in kept, f"{case.id}: nothing was recorded as {name}"
        torch.testing.assert_close(
            kept[name].detach().float(),
            case.tensor(name),
            rtol=limits["rtol"],
            atol=limits["mid_atol"],
            msg=lambda told, name=name: f"{case.id} {name}: {told}",
        )


def _as_stored(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every n-th entry of an axis, and the first items of the batch, where the case keeps no more."""
    for axis, (given, wanted) in enumerate(zip(value.shape, shape, strict=True)):
        if given == wanted:
            continue
        if axis == 0:
            value = value[:wanted]
            continue
        step = next(n for n in range(2, given + 1) if -(-given // n) == wanted)
        value = value[(slice(None),) * axis + (slice(None, None, step),)]
    return value


# Intermediates

BLOCKS = {
    "input_blocks.0": "conv_in",
    "input_blocks.1": "down_blocks.0.attentions.0",
    "input_blocks.2": "down_blocks.0.attentions.1",
    "input_blocks.3": "down_blocks.0.downsamplers.0",
    "input_blocks.4": "down_blocks.1.attentions.0",
    "input_blocks.5": "down_blocks.1.attentions.1",
    "input_blocks.6": "down_blocks.1.downsamplers.0",
    "input_blocks.7": "down_blocks.2.attentions.0",
    "input_blocks.8": "down_blocks.2.attentions.1",
    "input_blocks.9": "down_blocks.2.downsamplers.0",
    "input_blocks.10": "down_blocks.3.resnets.0",
    "input_blocks.11": "down_blocks.3.resnets.1",
    "middle_block": "mid_block.resnets.1",
    "output_blocks.0": "up_blocks.0.resnets.0",
    "output_blocks.1": "up_blocks.0.resnets.1",
    "output_blocks.2": "up_blocks.0.upsamplers.0",
    "output_blocks.3": "up_blocks.1.attentions.0",
    "output_blocks.4": "up_blocks.1.attentions.1",
    "output_blocks.5": "up_blocks.1.upsamplers.0",
    "output_blocks.6": "up_blocks.2.attentions.0",
    "output_blocks.7": "up_blocks.2.attentions.1",
    "output_blocks.8": "up_blocks.2.upsamplers.0",
    "output_blocks.9": "up_blocks.3.attentions.0",
    "output_blocks.10": "up_blocks.3.attentions.1",
    "output_blocks.11": "up_blocks.3.attentions.2",
    "time_embed": "time_embedding",
}
LEVELS = {f"vae/down.{level}": f"vae.encoder.down_blocks.{level}" for level in range(4)}
PLACES = (
    {f"unet/{there}": f"unet.{here}" for there, here in BLOCKS.items()}
    | LEVELS
    | {"vae/mid.attn_1": "vae.encoder.mid_block.attentions.0", "vae/conv_out": "vae.encoder.conv_out"}
    | {f"head/level{level}": f"head.bn2_{level}" for level in (4, 3, 2)}
    | {"head/logits": "head.conv1_1"}
)


@contextmanager
def recorded(model):
    """What the parts of a model answer, by the case's names; rows that were computed one by one are joined."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name):
        def hook(_module, _given, answer):
            value = answer[0] if isinstance(answer, tuple) else answer
            seen.setdefault(f"mid/{name}", []).append(value.relu() if "level" in name else value.clone())

        return hook

    def keep_joined(_module, given):
        coarsest, others = given
        for stride, value in zip((64, 32, 16, 8), (coarsest, *others), strict=True):
            seen.setdefault(f"mid/feat_s{stride}", []).append(value)

    def keep_maps(_module, _given, answer):
        for stride in MAP_LAYERS:
            seen.setdefault(f"mid/attn_s{stride}", []).append(answer[1][stride])

    handles = [model.get_submodule(place).register_forward_hook(keep(name)) for name, place in PLACES.items()]
    handles.append(model.head.register_forward_pre_hook(keep_joined))
    handles.append(model.unet.register_forward_hook(keep_maps))
    joined: dict[str, Tensor] = {}
    try:
        yield joined
    finally:
        for handle in handles:
            handle.remove()
        joined |= {name: torch.cat(values) for name, values in seen.items()}


# Training


def run_training(case: Case) -> None:
    """One step as `refseg train` takes it: loss, gradients, AdamW, batch statistics."""
    model, names = load(case, weights(case))
    model.train()
    told = case.config
    clips, placements = clips_of(case, model.config.frame)
    masks = case.tensor("in/target").bool()[:, None]
    loss = dataclasses.replace(
        FAMILY.loss, background_weight=told["class_weights"][0], object_weight=told["class_weights"][1]
    )
    optimizer = build_optimizer(
        model,
        FAMILY.param_rules,
        OptimizerConfig(lr=told["lr"], weight_decay=told["weight_decay"], decay_vectors=True),
    )
    targets = Targets(
        masks, masks.flatten(2).any(-1), torch.zeros(len(masks), 1, 4), torch.zeros(len(masks)).long()
    )
    with recorded(model) as seen:
        output = model.segment(model.encode_visual(clips), model.encode_text(tokens_of(case)))
    term = sum(FAMILY.criterion(loss)(output, targets).values())
    term.backward()
    parameters = dict(model.named_parameters())
    chosen = [parameters[names[name]] for name in case.manifest["grad_names"]]
    before = [parameter.detach().clone() for parameter in chosen]
    every = [parameter.grad.norm() for parameter in parameters.values() if parameter.grad is not None]
    _no_gradient(case, parameters, names)
    norms = [parameter.grad.norm().item() for parameter in chosen]
    schedule = ScheduleConfig(kind="poly", power=0.9)
    set_learning_rate(optimizer, told["lr"] * schedule_ratio(0, told["total_iterations"], schedule))
    optimizer.step()
    computed = {
        "out/logits": resize_maps(seen["mid/head/logits"], placements[0].canvas),
        "out/loss": term.item(),
        "out/grad_norms": norms,
        "out/total_grad_norm": torch.stack(every).norm().item(),
        "out/step_delta_norms": [
            (parameter.detach() - old).norm().item() for parameter, old in zip(chosen, before, strict=True)
        ],
        "out/bn1_4.running_mean": model.head.bn1_4.running_mean,
        "out/bn1_4.running_var": model.head.bn1_4.running_var,
    }
    _check_training(case, computed)
    second = told["lr"] * schedule_ratio(1, told["total_iterations"], schedule)
    text = next(note for note in case.manifest["notes"] if note.startswith("lr_after_first_scheduler_step"))
    assert abs(second - float(text.split("=")[1].split()[0])) < 1e-15


def _no_gradient(case: Case, parameters, names) -> None:
    for text in case.manifest["parameters_without_gradient"]:
        prefix = text.split("*")[0].removesuffix(" (all)")
        for name in (name for name in names if name.startswith(prefix)):
            assert parameters[names[name]].grad is None, f"{name} has a gradient"


def _check_training(case: Case, computed: dict[str, Any]) -> None:
    limits = case.manifest["tolerance"]
    for name in (name for name in case.arrays if name.startswith("out/")):
        value = computed[name]
        given = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        atol = limits["logits_atol"] if name == "out/logits" else limits["atol"]
        np.testing.assert_allclose(
            given, case.arrays[name], rtol=limits["rtol"], atol=atol, err_msg=f"{case.id} {name}"
        )
    wrong = case.arrays.get("ref/grad_norms_if_maps_carried_gradient")
    if wrong is not None and not np.allclose(wrong, case.arrays["out/grad_norms"], rtol=limits["rtol"] * 5):
        assert not np.allclose(computed["out/grad_norms"], wrong, rtol=limits["rtol"])
