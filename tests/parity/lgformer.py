"""Cases of LGFormer: published names -> convert -> build -> strict load -> verbs -> outputs."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.case import Case, Comparison
from refseg.encoders.swin import SwinSpec
from refseg.encoders.text import BERT_BASE
from refseg.framing import IMAGENET_MEAN, IMAGENET_STD, FrameSpec, place_frames, valid_area
from refseg.models import catalog
from refseg.models.lgformer import config as settings
from refseg.models.lgformer.family import FAMILY
from refseg.structures import Clips, Targets, TextTokens
from refseg.training.optimizer import build_optimizer, schedule_ratio
from refseg.training.schema import OptimizerConfig, ScheduleConfig


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if not case.manifest.get("state_dict"):
        from parity import lgformer_plain

        return lgformer_plain.run(case)
    if "copied_unchanged" in case.config:
        from parity import lgformer_plain

        return lgformer_plain.run_swin_start(case)
    if not case.arrays:
        return run_layout(case)
    return run_training(case) if "out/loss_total" in case.arrays else run_forward(case)


# Configuration


def config_of(case: Case) -> settings.LGFormerConfig:
    """The configuration that a manifest tells in the published code's words; what it leaves out is as published."""
    told = case.config
    size = f"{told.get('swin_type', 'base')}-window{told['window_size']}"
    published = settings.VARIANTS[size]
    own = published.backbone
    bert = told.get("bert", {})
    text = dataclasses.replace(
        published.text,
        vocabulary=bert.get("vocab_size", BERT_BASE.vocabulary),
        width=bert.get("hidden_size", BERT_BASE.width),
        num_layers=bert.get("num_hidden_layers", BERT_BASE.num_layers),
        num_heads=bert.get("num_attention_heads", BERT_BASE.num_heads),
        hidden_dim=bert.get("intermediate_size", BERT_BASE.hidden_dim),
        num_positions=bert.get("max_position_embeddings", BERT_BASE.num_positions),
        num_token_types=bert.get("type_vocab_size", BERT_BASE.num_token_types),
        dropout=bert.get("hidden_dropout_prob", BERT_BASE.dropout),
    )
    return dataclasses.replace(
        published,
        backbone=SwinSpec(
            embed_dim=told.get("embed_dim", own.embed_dim),
            depths=tuple(told.get("depths", own.depths)),
            num_heads=tuple(told.get("num_heads", own.num_heads)),
            window=told["window_size"],
            drop_path=told.get("drop_path", own.drop_path),
        ),
        fusion_heads=tuple(told.get("mha", published.fusion_heads)),
        text=text,
        max_tokens=told.get("max_tokens", published.max_tokens),
        dim=told.get("conv_dim", published.dim),
        num_heads=told.get("nheads", published.num_heads),
        num_encoder_layers=told.get("enc_layers", published.num_encoder_layers),
        encoder_hidden_dim=told.get("enc_ffn", published.encoder_hidden_dim),
        text_hidden_dim=told.get("enc_cross_ffn", published.text_hidden_dim),
        num_decoder_layers=told.get("dec_layers", published.num_decoder_layers),
        decoder_hidden_dim=told.get("dec_ffn", published.decoder_hidden_dim),
        detail="layers",
    )


# The road


def load(case: Case, state: dict[str, Tensor]):
    """The model with the case's weights, in evaluation mode, and the conversion's report."""
    config = config_of(case)
    converted, report = FAMILY.convert(state, config)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        model = catalog.build("lgformer", config)
    model.load_state_dict(converted, strict=True, assign=True)
    return model.eval(), report


def run_layout(case: Case) -> None:
    """Names and shapes alone: the conversion is complete in both directions, and the counts are the published ones."""
    model, report = load(case, case.shapes())
    told = case.config
    if "parameters" not in told:
        return
    own = {name: parameter.numel() for name, parameter in model.named_parameters()}
    without_effect = sum(size_of(case, name) for name in without_effect_of(report))
    parts = {
        "backbone": _counted(own, "backbone.") + without_effect,
        "classifier": _counted(own, "pixel_decoder.") + _counted(own, "query_decoder."),
        "text_encoder": _counted(own, "text_tower."),
    }
    assert sum(parts.values()) == told["parameters"]
    assert parts == told.get("parameters_by_part", parts)


def without_effect_of(report) -> list[str]:
    """Trained weights of the published model that ours leaves out: gates of the last stage, biases normalised away."""
    return [name for name in report.dropped if name.endswith((".weight", ".bias"))]


def size_of(case: Case, name: str) -> int:
    return int(np.prod(case.manifest["state_dict"][name]["shape"]))


def _counted(sizes: dict[str, int], prefix: str) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(prefix))


def clips_of(case: Case) -> Clips:
    """The case's images, normalised as they are: each a clip of one frame that fills its canvas."""
    images = case.tensor("in/image").permute(0, 3, 1, 2)  # [B, 3, H, W]
    height, width = images.shape[-2:]
    spec = FrameSpec(fit="shortest", size=min(height, width), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    placed = [place_frames(image[None], spec) for image in images]
    assert all(where.source == where.content == where.canvas for _, where in placed)
    return Clips(
        torch.stack([pixels for pixels, _ in placed]),
        torch.stack([valid_area(where) for _, where in placed]),
        torch.tensor([where.content for _, where in placed]),
    )


def placements_of(case: Case):
    images = case.tensor("in/image").permute(0, 3, 1, 2)
    spec = FrameSpec(fit="shortest", size=min(images.shape[-2:]))
    return [place_frames(image[None], spec)[1] for image in images]


def tokens_of(case: Case) -> TextTokens:
    return TextTokens(case.tensor("in/input_ids"), case.tensor("in/attention_mask") == 1)


def run_forward(case: Case) -> None:
    """The three verbs and the finish, with every prediction told; then again as users run them."""
    model, _ = load(case, case.filled())
    clips, tokens = clips_of(case), tokens_of(case)
    with torch.no_grad(), recorded(model) as seen:
        visual, text = model.encode_visual(clips), model.encode_text(tokens)
        output = model.segment(visual, text)
    computed = intermediates(model, seen)
    low = torch.cat([*(part.mask_logits for part in output.earlier), output.mask_logits], dim=1)
    computed["out/low_logits"] = low.transpose(0, 1)  # [predictions, B, 1, h, w]
    placements = placements_of(case)
    logits = torch.stack(
        [
            model.enlarged(row[0], where, at="canvas")
            for row, where in zip(output.mask_logits, placements, strict=True)
        ]
    )
    computed["out/logits"] = logits
    check(case, computed)
    masks = torch.stack(model.finish(output, placements, at="canvas"))
    check_masks(case, masks, logits)
    model.config = dataclasses.replace(model.config, detail="last")
    with torch.no_grad():
        brief = model.segment(visual, text)
    assert brief.earlier == ()
    torch.testing.assert_close(brief.mask_logits, output.mask_logits, **case.manifest["tolerance"])


def check(case: Case, computed: dict[str, Any]) -> None:
    """Compares all but the masks, after the cuts that were made before storing."""
    slices = case.manifest["outputs"].get("stored_slices", {})
    cut = {name: _cut(value, slices.get(name, "[...]")) for name, value in computed.items()}
    if "out/mask" in case.arrays:
        cut["out/mask"] = case.arrays["out/mask"]  # compared in check_masks, with room for logits near zero
    Comparison(case, cut).check()


def check_masks(case: Case, masks: Tensor, logits: Tensor) -> None:
    """Masks may differ only where the logit is within the tolerance of zero."""
    expected = case.tensor("out/mask").bool()
    differs = masks.view_as(expected) != expected
    near = logits.view_as(expected).abs() <= case.manifest["tolerance"]["atol"]
    assert not (differs & ~near).any(), (
        f"{case.id}: {int((differs & ~near).sum())} pixels of the masks differ"
    )


def _cut(value: Any, index: str) -> np.ndarray:
    array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value)
    parts = index.strip("[]").split(",")
    places = [
        Ellipsis
        if part.strip() == "..."
        else slice(*(int(n) if n.strip() else None for n in part.split(":")))
        for part in parts
    ]
    return array[tuple(places)]


# Training


def run_training(case: Case) -> None:
    """Loss terms and gradients in float32; one step of the real optimiser by the real rules; the schedule's rates.

    A first step of AdamW divides every gradient by its own size, so that of gradients near zero it shows the rounding;
    the gradients that it takes are therefore those of float64.
    """
    told = case.config
    model, report = load(case, case.filled())
    names = report.renamed | {parts[0]: ours for ours, parts in report.merged.items()}
    terms = backward(case, model)
    parameters = dict(model.named_parameters())
    earlier = [terms[f"mask_{number}"] for number in range(len(terms) - 1)]
    every = [parameter.grad.norm() for parameter in parameters.values() if parameter.grad is not None]
    computed: dict[str, Any] = {
        "out/loss_terms": torch.stack([*earlier, terms["mask"]]),
        "out/loss_total": sum(terms.values()),
        "out/grad_norms": [_norm(parameters.get(names.get(name))) for name in told["grad_norm_names"]],
        "out/grad_norm_all": torch.stack(every).norm(),
    }
    precise = load(case, case.filled())[0].double()
    backward(case, precise)
    computed |= steps(case, precise, names, without_effect_of(report))
    rates = case.arrays["out/lr_first_steps"]
    schedule = ScheduleConfig(kind="poly", power=0.9)
    computed["out/lr_first_steps"] = [
        told["lr"] * schedule_ratio(step, told["total_steps"], schedule) for step in range(len(rates))
    ]
    check(case, computed)


def _norm(parameter) -> float:
    """The norm of a gradient; zero for a weight without effect."""
    return 0.0 if parameter is None else parameter.grad.norm().item()


def backward(case: Case, model) -> dict[str, Tensor]:
    """The loss terms in training mode; parameters have the gradients of their sum."""
    model.train()
    clips = clips_of(case).to(dtype=next(model.parameters()).dtype)
    output = model.segment(model.encode_visual(clips), model.encode_text(tokens_of(case)))
    loss = settings.LGFormerLossConfig(positive_weight=case.config["pos_weight"])
    terms = FAMILY.criterion(loss)(output, targets_of(case))
    sum(terms.values()).backward()
    return terms


def steps(case: Case, model, names: dict[str, str], left_out: list[str]) -> dict[str, Tensor]:
    """How far one step moves the parameters that the case names, in learning rates; what is in no group stays."""
    told = case.config
    run = OptimizerConfig(
        lr=told["lr"], betas=tuple(told["betas"]), weight_decay=told["weight_decay"], decay_vectors=True
    )
    optimizer = build_optimizer(model, FAMILY.param_rules, run)
    assert all(group["eps"] == told["eps"] for group in optimizer.param_groups)
    parameters = dict(model.named_parameters())
    check_groups(case, names, left_out, parameters, optimizer.param_groups)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer.step()
    for name, parameter in parameters.items():
        assert parameter.requires_grad or torch.equal(before[name], parameter), (
            f"{name} is in no group, and moved"
        )
    moved = {name: parameters[names[name]].detach() - before[names[name]] for name in told["step_names"]}
    return {f"out/step/{name}": value / told["lr"] for name, value in moved.items()}


def targets_of(case: Case) -> Targets:
    masks = case.tensor("in/target").bool()[:, None]  # [P, 1, H, W]
    visible = masks.flatten(2).any(-1)
    return Targets(masks, visible, torch.zeros(*visible.shape, 4), torch.zeros(len(masks), dtype=torch.int64))


def check_groups(case: Case, names, left_out, parameters, groups) -> None:
    """The published groups by kind: how many tensors and numbers each holds, and how they decay."""
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    sizes = {name: parameters[ours].numel() for name, ours in names.items()}
    sizes |= {name: size_of(case, name) for name in left_out}
    assert set(case.config["parameters_without_gradient"]) <= set(left_out)
    kinds = [
        lambda name: (
            name.startswith("backbone.") and ("norm" in name or "relative_position_bias_table" in name)
        ),
        lambda name: name.startswith("backbone."),
        lambda name: name.startswith("classifier."),
        lambda name: name.startswith("text_encoder.encoder.layer."),
    ]
    members: list[list[str]] = [[] for _ in kinds]
    for name in sizes:
        number = next((number for number, kind in enumerate(kinds) if kind(name)), None)
        if number is None:
            assert id(parameters[names[name]]) not in decays, f"{name} is in a group"
            continue
        members[number].append(name)
    for told, group in zip(case.config["groups"], members, strict=True):
        assert (len(group), sum(sizes[name] for name in group)) == (told["tensors"], told["elements"]), told[
            "kind"
        ]
        for name in set(group) - set(left_out):
            assert decays[id(parameters[names[name]])] == told["weight_decay"], f"{name}, {told['kind']}"


# Intermediates


@contextmanager
def recorded(model):
    """What modules return while it is open: name -> list of results, one a call."""
    seen: dict[str, list[Any]] = {}
    watched = ["text_tower", "backbone.swin.patch_embed", "query_decoder", "backbone"]
    watched += [f"backbone.swin.layers.0{ending}" for ending in ("", ".blocks.0")]
    watched += [f"backbone.fusions.{number}" for number in range(len(model.backbone.fusions))]
    watched += [f"backbone.swin.layers.{number}.downsample" for number in range(len(model.backbone.gates))]
    watched += [f"pixel_decoder.projections.{number}" for number in range(3)]
    watched += [
        "pixel_decoder.layers.0.feed_forward",
        "pixel_decoder.text_layers.0.feed_forward",
        "pixel_decoder",
    ]
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _given, result, name=name: seen.setdefault(name, []).append(result)
        )
        for name in watched
    ]
    yield seen
    for handle in handles:
        handle.remove()


def intermediates(model, seen) -> dict[str, Tensor]:
    """What the case calls mid/..., in the order of computation."""
    named = {"mid/text": seen["text_tower"][0].tokens}
    named["mid/patch_embed"] = torch.cat(seen["backbone.swin.patch_embed"]).permute(0, 3, 1, 2)
    named["mid/stage1_block1"] = torch.cat(seen["backbone.swin.layers.0.blocks.0"]).flatten(1, 2)
    named["mid/stage1_blocks"] = torch.cat(seen["backbone.swin.layers.0"]).flatten(1, 2)
    maps = [torch.cat(level) for level in zip(*(told[0] for told in seen["backbone"]), strict=True)]
    for number, level in enumerate(maps):
        residuals = torch.cat([told[1] for told in seen[f"backbone.fusions.{number}"]])
        named[f"mid/stage{number + 1}_lang_residual"] = residuals.transpose(1, 2)
        merging = f"backbone.swin.layers.{number}.downsample"
        if merging in seen:
            named[f"mid/stage{number + 1}_x_next"] = torch.cat(seen[merging]).flatten(1, 2)
        named[f"mid/feat_s{number + 1}"] = level.permute(0, 3, 1, 2)
    named["mid/lang_out"] = torch.cat([told[1] for told in seen["backbone"]]).transpose(1, 2)
    for number in range(3):
        named[f"mid/enc_src_l{number}"] = torch.cat(seen[f"pixel_decoder.projections.{number}"])
    named["mid/enc1_deform"] = torch.cat(seen["pixel_decoder.layers.0.feed_forward"])
    named["mid/enc1_cross"] = torch.cat(seen["pixel_decoder.text_layers.0.feed_forward"])
    memory = [torch.cat(level) for level in zip(*(told[1] for told in seen["pixel_decoder"]), strict=True)]
    named["mid/memory"] = torch.cat(memory, dim=1)
    finest = torch.cat([told[0] for told in seen["pixel_decoder"]])
    named["mid/mask_features"] = model.pixel_decoder.mask_features(finest).detach()
    states = [torch.cat(state) for state in zip(*seen["query_decoder"], strict=True)]
    named |= {f"mid/dec_state{number}": state for number, state in enumerate(states)}
    return named
