"""Cases of ReferFormer: published names -> convert -> build -> strict load -> verbs -> outputs."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from parity.case import Case, Comparison, NotBuilt
from refseg.encoders.text import TextSpec
from refseg.framing import enlarge_canvas, place_frames, valid_area
from refseg.layers.position import sine_2d
from refseg.models import catalog
from refseg.models.referformer import config as settings
from refseg.models.referformer.family import FAMILY
from refseg.models.referformer.levels import CELL_OFFSET, level_valid
from refseg.structures import Clips, Output, Targets, TextTokens
from refseg.training.optimizer import parameter_groups
from refseg.training.schema import OptimizerConfig


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if not case.manifest.get("state_dict"):
        from parity import referformer_plain

        return referformer_plain.run(case)
    if not case.arrays:
        return run_layout(case)
    return run_training(case) if "out/total" in case.arrays else run_forward(case)


# Configuration


def config_of(case: Case) -> settings.ReferFormerConfig:
    """The configuration that a manifest tells in the published code's words."""
    told = case.config
    if told["num_feature_levels"] != 4:
        raise NotBuilt(f"ReferFormer with {told['num_feature_levels']} levels")
    return settings.ReferFormerConfig(
        backbone=_backbone_of(told),
        text=_text_of(told["text_config"]),
        trains_text=not told["freeze_text_encoder"],
        num_frames=told["num_frames"],
        dim=told["hidden_dim"],
        num_heads=told["nheads"],
        num_encoder_layers=told["enc_layers"],
        num_decoder_layers=told["dec_layers"],
        num_encoder_points=told["enc_n_points"],
        num_decoder_points=told["dec_n_points"],
        hidden_dim=told["dim_feedforward"],
        num_queries=told["num_queries"],
        num_classes=told["num_classes"],
        refines_boxes=told["with_box_refine"],
        mask_dim=told["mask_dim"],
        num_dynamic_layers=told["controller_layers"],
        dynamic_channels=told["dynamic_mask_channels"],
        has_relative_coordinates=told["rel_coord"],
        supervises_every_layer=told["aux_loss"],
        detail="layers",
    )


BACKBONES = {
    "resnet50": settings.RESNET50,
    "resnet101": settings.RESNET101,
    "swin_t_p4w7": settings.SWIN_TINY,
    "swin_s_p4w7": settings.SWIN_SMALL,
    "swin_b_p4w7": settings.SWIN_BASE,
    "swin_l_p4w7": settings.SWIN_LARGE,
    "video_swin_t_p4w7": settings.VIDEO_SWIN_T,
    "video_swin_s_p4w7": settings.VIDEO_SWIN_S,
    "video_swin_b_p4w7": settings.VIDEO_SWIN_B,
}


def _backbone_of(told: dict[str, Any]) -> settings.BackboneSpec:
    if told["backbone"] not in BACKBONES:
        raise NotBuilt(f"ReferFormer with the backbone {told['backbone']}")
    published, changes = BACKBONES[told["backbone"]], told.get("backbone_config", "published")
    if told.get("dilation"):  # an option of ResNets alone
        published = dataclasses.replace(published, is_dilated=True)
    if changes == "published":
        return published
    names = {"window_size": "window", "drop_path_rate": "drop_path"}
    plain = {names.get(key, key): _plain(value) for key, value in changes.items()}
    return dataclasses.replace(published, **plain)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text_of(told: dict[str, Any]) -> TextSpec:
    assert told["hidden_act"] == "gelu"
    return TextSpec(
        vocabulary=told["vocab_size"],
        width=told["hidden_size"],
        num_layers=told["num_hidden_layers"],
        num_heads=told["num_attention_heads"],
        hidden_dim=told["intermediate_size"],
        num_positions=told["max_position_embeddings"],
        num_token_types=told["type_vocab_size"],
        norm_eps=told["layer_norm_eps"],
        pad_id=told["pad_token_id"],
    )


# The road


def load(case: Case, state: dict[str, Tensor]) -> tuple[torch.nn.Module, dict[str, str]]:
    """The model with the case's weights, in evaluation mode, and published names to ours."""
    config = config_of(case)
    converted, report = FAMILY.convert(state, config)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        model = catalog.build("referformer", config)
    model.load_state_dict(converted, strict=True, assign=True)
    aliases = case.config.get("aliases", {})
    names = {
        name: report.renamed[aliases.get(name, name)]
        for name in state
        if aliases.get(name, name) in report.renamed
    }
    return model.eval(), names


def run_layout(case: Case) -> None:
    """Names and shapes alone: the conversion is complete in both directions, and the counts are the published ones."""
    model, _ = load(case, case.shapes())
    told = case.config
    if "parameters" in told:
        assert sum(parameter.numel() for parameter in model.parameters()) == told["parameters"]
    if "trainable_parameters_text_frozen" in told:
        model.text_tower.requires_grad_(False)
        groups = parameter_groups(model, FAMILY.param_rules, OptimizerConfig(lr=1e-4))
        trained = sum(parameter.numel() for group in groups for parameter in group["params"])
        assert trained == told["trainable_parameters_text_frozen"]


def clips_of(case: Case) -> tuple[Clips, list]:
    """The case's frames on their canvas, and where they lie."""
    divisor = 32 if "multiple of 32" in case.manifest["inputs"]["batching"] else 1
    placed = []
    for _, frames in case.numbered("in/frames_"):
        spec = dataclasses.replace(
            settings.DATASET_FRAMES, size=min(frames.shape[1:3]), longest=None, divisor=divisor
        )
        placed.append((*place_frames(frames.permute(0, 3, 1, 2), spec), spec))
    canvas = tuple(max(where.canvas[axis] for _, where, _ in placed) for axis in (0, 1))
    enlarged = [enlarge_canvas(pixels, where, canvas, spec.fill) for pixels, where, spec in placed]
    content = torch.tensor([where.content for _, where in enlarged])
    assert torch.equal(content, case.tensor("in/size"))
    clips = Clips(
        torch.stack([pixels for pixels, _ in enlarged]),
        torch.stack([valid_area(where) for _, where in enlarged]),
        content,
        case.tensor("in/valid_indices")[:, None] if "in/valid_indices" in case.arrays else None,
    )
    return clips, [where for _, where in enlarged]


def tokens_of(case: Case) -> TextTokens:
    return TextTokens(case.tensor("in/input_ids"), case.tensor("in/attention_mask") == 1)


def run_forward(case: Case) -> None:
    """The three verbs, with everything told; then again as users run them."""
    model, _ = load(case, case.filled())
    clips, _ = clips_of(case)
    computed: dict[str, Tensor] = {}
    with torch.no_grad(), recorded(model) as seen:
        visual, text = model.encode_visual(clips), model.encode_text(tokens_of(case))
        output = model.segment(visual, text)
    computed |= intermediates(model, clips, visual, text, seen)
    computed |= outputs(output, computed)
    Comparison(case, computed).check()
    for detail in ("candidates", "chosen"):
        model.config = dataclasses.replace(model.config, detail=detail)
        with torch.no_grad():
            brief = model.segment(visual, text)
        query, score = model.choose(output)
        rows = slice(None) if detail == "candidates" else query[:, None]
        phrases = torch.arange(len(query))[:, None]
        whole = (
            output
            if detail == "candidates"
            else Output(
                output.mask_logits[phrases, rows],
                output.class_logits[phrases, rows],
                output.boxes[phrases, rows],
            )
        )
        limits = case.manifest["tolerance"]
        torch.testing.assert_close(brief.mask_logits, whole.mask_logits, **limits)
        torch.testing.assert_close(brief.class_logits, whole.class_logits, **limits)
        torch.testing.assert_close(brief.boxes, whole.boxes, **limits)
        torch.testing.assert_close(model.choose(brief)[1], score, **limits)


def outputs(output: Output, computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """An output under the case's names."""
    named = {f"out/pred_{key}": value for key, value in _three(output).items()}
    for index, layer in enumerate(output.earlier):
        named |= {f"out/aux{index}_{key}": value for key, value in _three(layer).items()}
    references = [computed["mid/init_reference"], *computed["mid/inter_references"]]
    frames = output.mask_logits.shape[2]
    named["out/reference_points"] = references[-2].unflatten(0, (-1, frames))[..., :2]
    return named


def _three(output: Output) -> dict[str, Tensor]:
    """[B, T, Q, ...] each, as published."""
    parts = {"logits": output.class_logits, "boxes": output.boxes, "masks": output.mask_logits}
    return {key: value.transpose(1, 2) for key, value in parts.items()}


# Intermediates


@contextmanager
def recorded(model):
    """What modules return while it is open: name -> list of results, one a call."""
    seen: dict[str, list[Any]] = {}
    watched = [
        "backbone",
        "fusion",
        "text_tower",
        "encoder",
        "decoder",
        "mask_head.controller",
        "pixel_decoder.mask_features",
    ]
    watched += [f"pixel_decoder.blocks.{level}.feed_forward" for level in range(4)]
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _given, result, name=name: seen.setdefault(name, []).append(result)
        )
        for name in watched
    ]
    yield seen
    for handle in handles:
        handle.remove()


def intermediates(model, clips: Clips, visual, text, seen) -> dict[str, Tensor]:
    """What the case calls mid/..., in the order of computation."""
    named: dict[str, Tensor] = {}
    tower = seen["text_tower"][0]
    named |= {"mid/text_last_hidden": tower.tokens, "mid/text_pooled": tower.pooled}
    named |= {"mid/text_features": text.tokens, "mid/text_sentence": text.sentence}
    frames = visual.maps[0].shape[1]
    backbone = [torch.cat(level) for level in zip(*seen["backbone"], strict=True)]
    for k, level in enumerate(backbone):
        named[f"mid/backbone_{k}"] = level
        valid = level_valid(clips.valid, level.shape[-2:]).repeat_interleave(frames, 0)
        named[f"mid/backbone_mask_{k}"] = ~valid
        named[f"mid/pos_{k}"] = sine_2d(valid, model.config.dim, offset=CELL_OFFSET).permute(0, 3, 1, 2)
    sizes = [level.shape[-2:] for level in visual.maps[1:]]
    valid = level_valid(clips.valid, sizes[3]).repeat_interleave(frames, 0)
    named["mid/enc_pos_3"] = sine_2d(valid, model.config.dim, offset=CELL_OFFSET).permute(0, 3, 1, 2)
    for name, module in (("fused", "fusion"), ("memory", "encoder")):
        for k, level in enumerate(_levels(torch.cat(seen[module]), sizes)):
            named[f"mid/{name}_{k}"] = level
    layers = list(zip(*seen["decoder"], strict=True))
    named["mid/hs"] = torch.stack([torch.cat([part.states for part in layer]) for layer in layers])
    start = model.decoder.reference_points(model.decoder.query_embed.weight).sigmoid()
    named["mid/init_reference"] = start.expand(len(backbone[0]), -1, -1)
    named["mid/inter_references"] = torch.stack(
        [torch.cat([part.reference for part in layer]) for layer in layers]
    )
    for level in (3, 2, 1, 0):
        tokens = torch.cat(seen[f"pixel_decoder.blocks.{level}.feed_forward"])  # [B*T, h*w, C]
        by_clip = tokens.unflatten(0, (-1, frames)).flatten(1, 2)
        named[f"mid/fpn_cross_attn_{level + 1}"] = by_clip.transpose(0, 1)
    named["mid/mask_features"] = torch.cat(seen["pixel_decoder.mask_features"])
    named["mid/controller"] = torch.stack(seen["mask_head.controller"])
    return named


def _levels(tokens: Tensor, sizes) -> list[Tensor]:
    parts = tokens.split([h * w for h, w in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


# Training


def run_training(case: Case) -> None:
    """Loss terms, matches, gradients and parameter groups."""
    model, names = load(case, case.filled())
    published = {ours: name for name, ours in names.items()}
    rate = case.config["param_groups"]["main"]["lr"]
    groups = parameter_groups(model, FAMILY.param_rules, OptimizerConfig(lr=rate, weight_decay=5e-4))
    check_groups(case, model, published, groups)
    clips, placements = clips_of(case)
    targets = targets_of(case, placements)
    criterion = FAMILY.criterion(_loss_of(case))
    output = model.segment(model.encode_visual(clips), model.encode_text(tokens_of(case)))
    terms = criterion(output, targets)
    total = sum(terms.values())
    total.backward()
    weights = {name.removeprefix("loss_"): weight for name, weight in case.config["loss_weights"].items()}
    ours = {"ce": "class", "bbox": "box", "giou": "giou", "mask": "mask", "dice": "dice"}
    values = []
    for name in case.manifest["outputs"]["out/loss_values"]["order"]:
        term, _, ending = name.removeprefix("loss_").partition("_")
        plain = f"{ours[term]}_{ending}" if ending else ours[term]
        values.append(terms[plain].item() / weights[name.removeprefix("loss_")])
    gradients = dict(model.named_parameters())
    norms = [
        gradients[names[name]].grad.norm().item()
        for name in case.manifest["outputs"]["out/grad_norms"]["order"]
    ]
    every = [parameter.grad.norm() for parameter in gradients.values() if parameter.grad is not None]
    layers = (output, *output.earlier)
    computed = {f"mid/pred_{key}": value for key, value in _three(output).items()}
    computed |= {
        "out/loss_values": values,
        "out/total": total.item(),
        "out/grad_norms": norms,
        "out/grad_total_norm": torch.stack(every).norm().item(),
        "out/match": torch.stack([criterion.match(layer, targets) for layer in layers]),
    }
    Comparison(case, computed).check()


def targets_of(case: Case, placements) -> Targets:
    pairs = zip(case.numbered("in/masks_"), placements, strict=True)
    masks = [_padded(masks, where.canvas) for (_, masks), where in pairs]
    visible = torch.stack([values.bool() for _, values in case.numbered("in/valid_")])
    return Targets(
        masks=torch.stack(masks),
        visible=visible,
        boxes=torch.stack([boxes for _, boxes in case.numbered("in/boxes_")]),
        labels=torch.stack([labels[0] for _, labels in case.numbered("in/labels_")]),
    )


def _padded(masks: Tensor, canvas) -> Tensor:
    padded = torch.zeros(len(masks), *canvas, dtype=torch.bool)
    padded[:, : masks.shape[1], : masks.shape[2]] = masks.bool()
    return padded


def _loss_of(case: Case) -> settings.ReferFormerLossConfig:
    told = case.config["loss"]
    return settings.ReferFormerLossConfig(
        class_weight=told["cls_loss_coef"],
        box_weight=told["bbox_loss_coef"],
        giou_weight=told["giou_loss_coef"],
        mask_weight=told["mask_loss_coef"],
        dice_weight=told["dice_loss_coef"],
        class_cost=told["set_cost_class"],
        box_cost=told["set_cost_bbox"],
        giou_cost=told["set_cost_giou"],
        mask_cost=told["set_cost_mask"],
        dice_cost=told["set_cost_dice"],
        focal_alpha=told["focal_alpha"],
    )


def check_groups(case: Case, model, published: dict[str, str], groups) -> None:
    """The published optimiser's groups, by the parameters that ours trains at those rates."""
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    told = case.config["param_groups"]
    members: dict[str, list[Tensor]] = {name: [] for name in ("main", "backbone", "text", "proj")}
    frozen = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen += 1
            continue
        group = _published_group(published[name])
        members[group].append(parameter)
        assert abs(rates[id(parameter)] - told[group]["lr"]) < 1e-12, (
            f"{name} learns at {rates[id(parameter)]}"
        )
    assert frozen == told["frozen_tensors"]
    for group in ("main", "backbone", "text"):
        counts = len(members[group]), sum(parameter.numel() for parameter in members[group])
        assert counts == (told[group]["tensors"], told[group]["values"]), f"{group}: {counts}"
    assert len(members["proj"]) == len(told["proj"]["names"])


def _published_group(name: str) -> str:
    if "backbone.0" in name:
        return "backbone"
    if "text_encoder" in name:
        return "text"
    return "proj" if "reference_points" in name or "sampling_offsets" in name else "main"
