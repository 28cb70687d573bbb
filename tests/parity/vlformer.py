"""Cases of VLFormer: published names -> convert -> build -> strict load -> verbs -> outputs."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.case import Case, Comparison, NotBuilt
from refseg.encoders.clip_text import ClipTextSpec
from refseg.framing import enlarge_canvas, place_frames, valid_area
from refseg.models import catalog
from refseg.models.vlformer import config as settings
from refseg.models.vlformer.family import FAMILY
from refseg.structures import Clips, Output, Placement, Targets, TextTokens
from refseg.training.optimizer import build_optimizer, parameter_groups, schedule_ratio, set_learning_rate
from refseg.training.recipe import find_recipe, read_recipe
from refseg.training.schema import OptimizerConfig, RunConfig

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
FLIPPED_PIXELS = 0.001  # share of mask pixels that float32 may flip, by the cases' own note


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if case.manifest.get("state_dict"):
        if not case.arrays:
            return run_layout(case)
        return run_training(case) if "out/loss_total" in case.arrays else run_forward(case)
    from parity import vlformer_plain

    return vlformer_plain.run(case)


# Configuration


def config_of(case: Case) -> settings.VLFormerConfig:
    """The configuration that a manifest tells in the published code's words."""
    told = case.config
    backbone, pixels, decoder = told["backbone"], told["pixel_decoder"], told["decoder"]
    if backbone["depth"] not in DEPTHS or decoder["pre_norm"] or pixels["norm"] != "GN":
        raise NotBuilt(f"VLFormer with {backbone} and pre_norm {decoder['pre_norm']}")
    assert decoder["hidden_dim"] == pixels["conv_dim"]
    assert decoder["nheads"] == pixels["enc_heads"] == pixels["fusion_heads"]
    return settings.VLFormerConfig(
        frame=dataclasses.replace(settings.FRAMES, divisor=told["size_divisibility"]),
        backbone=settings.ResNetSpec(
            blocks=DEPTHS[backbone["depth"]],
            stem_width=backbone["stem_out_channels"],
            bottleneck_width=backbone["width_per_group"],
            stage_width=backbone["res2_out_channels"],
        ),
        text=_text_of(told["text_encoder"]),
        dim=decoder["hidden_dim"],
        num_heads=decoder["nheads"],
        num_points=pixels["enc_points"],
        num_encoder_layers=pixels["enc_layers"],
        encoder_hidden_dim=pixels["enc_ffn"],
        num_decoder_layers=decoder["dec_layers"],
        hidden_dim=decoder["dim_feedforward"],
        num_queries=decoder["num_queries"],
        mask_dim=pixels["mask_dim"],
        detail="layers",
    )


def _text_of(told: dict[str, Any]) -> ClipTextSpec:
    assert told["hidden_act"] == "quick_gelu"
    return ClipTextSpec(
        vocabulary=told["vocab_size"],
        width=told["hidden_size"],
        num_layers=told["num_hidden_layers"],
        num_heads=told["num_attention_heads"],
        hidden_dim=told["intermediate_size"],
        num_positions=told["max_position_embeddings"],
        norm_eps=told["layer_norm_eps"],
    )


# The road


def load(case: Case, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    """The model with the case's weights, in evaluation mode, and published names to ours."""
    config = config_of(case)
    converted, report = FAMILY.convert(state, config)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        model = catalog.build("vlformer", config)
    model.load_state_dict(converted, strict=True, assign=True)
    model.text_tower.requires_grad_(False)
    return model.eval(), report.renamed


def run_layout(case: Case) -> None:
    """Names and shapes alone: the conversion is complete in both directions, and the counts are the published ones."""
    model, _ = load(case, case.shapes())
    told = case.manifest
    assert sum(parameter.numel() for parameter in model.parameters()) == told["num_parameters"]
    groups = parameter_groups(model, FAMILY.param_rules, OptimizerConfig(lr=1e-4))
    trained = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert trained == told["num_trainable"]


def clips_of(images: list[Tensor], config: settings.VLFormerConfig) -> tuple[Clips, list[Placement]]:
    """Resized images [H, W, 3] or [T, H, W, 3] on one canvas, and where they lie."""
    placed = []
    for image in images:
        frames = (image if image.ndim == 4 else image[None]).permute(0, 3, 1, 2)
        spec = dataclasses.replace(config.frame, size=min(frames.shape[-2:]), longest=None)
        placed.append(place_frames(frames, spec))
    canvas = tuple(max(where.canvas[axis] for _, where in placed) for axis in (0, 1))
    enlarged = [enlarge_canvas(pixels, where, canvas, 0.0) for pixels, where in placed]
    clips = Clips(
        torch.stack([pixels for pixels, _ in enlarged]),
        torch.stack([valid_area(where) for _, where in enlarged]),
        torch.tensor([where.content for _, where in enlarged]),
    )
    return clips, [where for _, where in enlarged]


def tokens_of(case: Case) -> TextTokens:
    return TextTokens(case.tensor("in/input_ids"), case.tensor("in/attention_mask") == 1)


def run_forward(case: Case) -> None:
    """The three verbs, with everything told; then again as users run them."""
    model, _ = load(case, case.filled())
    clips, [placement] = clips_of([case.tensor("in/image")], model.config)
    with torch.no_grad(), recorded(model) as seen:
        visual, text = model.encode_visual(clips), model.encode_text(tokens_of(case))
        output = model.segment(visual, text)
    computed = intermediates(model, seen, text, output)
    query, score = model.choose(output)
    _, height, width = case.arrays["out/mask_shape"].tolist()
    placement = dataclasses.replace(placement, source=(height, width))
    [mask] = model.finish(output, [placement])
    computed |= {
        "out/pred_logits": output.class_logits[:, :, 0],
        "out/pred_masks": output.mask_logits,
        "out/score": score,
        "out/query": query,
        "out/label": torch.zeros(1),
        "out/mask_logits": finished_logits(model, output, placement)[None, :, ::2, ::2],
        "out/mask_shape": torch.tensor(mask.shape),
        "out/mask_bits": _bits_unless_flipped(case, "out/mask_bits", mask),
    }
    Comparison(case, computed).check()
    model.config = dataclasses.replace(model.config, detail="last")
    with torch.no_grad():
        brief = model.segment(visual, text)
    assert brief.earlier == ()
    assert torch.equal(brief.mask_logits, output.mask_logits)


def finished_logits(model, output: Output, placement: Placement) -> Tensor:
    """The chosen logits [T, H, W] at the source, read off the scores that `finish` thresholds."""
    [scores] = model.soft_masks(
        dataclasses.replace(output, mask_logits=output.mask_logits.double()), [placement]
    )
    return scores.logit()


def _bits_unless_flipped(case: Case, name: str, mask: Tensor) -> np.ndarray:
    """The case's own bits where few enough pixels differ, ours otherwise."""
    expected = np.unpackbits(case.arrays[name])[: mask.numel()].astype(bool)
    got = mask.numpy().flatten()
    few = np.mean(expected != got) <= FLIPPED_PIXELS
    return case.arrays[name] if few else np.packbits(got)


# Intermediates


@contextmanager
def recorded(model):
    """What modules return while it is open: name -> list of results, one a call."""
    seen: dict[str, list[Any]] = {}
    watched = ["backbone", "text_tower", "pixel_decoder", "decoder", "pixel_decoder.adapter"]
    watched += [f"pixel_decoder.{part}.{level}" for part in ("projections", "fusions") for level in range(3)]
    for index in range(model.config.num_decoder_layers):
        layer = f"decoder.layers.{index}"
        watched += [f"{layer}.cross_norm", f"{layer}.self_norm", f"{layer}.hidden_norm"]
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _given, result, name=name: seen.setdefault(name, []).append(result)
        )
        for name in watched
    ]
    yield seen
    for handle in handles:
        handle.remove()


STEP_16 = (slice(None), slice(None), slice(None, None, 16))


def intermediates(model, seen, text, output: Output) -> dict[str, Tensor]:
    """What the case calls mid/..., in the order of computation."""
    named: dict[str, Tensor] = {}
    phrases = len(text.tokens)
    for k, level in enumerate(zip(*seen["backbone"], strict=True)):
        named[f"mid/res{k + 2}"] = torch.cat(level)
    named["mid/text_last_hidden_state"] = seen["text_tower"][0]
    named["mid/text_resized"] = text.tokens
    for level in range(3):
        maps = torch.cat(seen[f"pixel_decoder.projections.{level}"])
        named[f"mid/input_proj_{level}"] = maps
        tokens = torch.cat(seen[f"pixel_decoder.fusions.{level}"])
        named[f"mid/fusion_{level + 1}"] = tokens.unflatten(0, (phrases, -1)).flatten(1, 2).transpose(0, 1)
    memories = seen["pixel_decoder"]
    tokens = [torch.cat([part.levels[level] for part in memories]) for level in range(3)]
    named["mid/encoder_memory"] = torch.cat(tokens, dim=1)
    named["mid/adapter_1"] = torch.cat(seen["pixel_decoder.adapter"])
    named["mid/layer_1"] = torch.cat([part.fine for part in memories])
    named["mid/mask_features"] = model.pixel_decoder.mask_features(named["mid/layer_1"])
    for index in range(model.config.num_decoder_layers):
        for part, module in (("cross", "cross_norm"), ("self", "self_norm"), ("ffn", "hidden_norm")):
            named[f"mid/dec{index}_{part}"] = seen[f"decoder.layers.{index}.{module}"][0].transpose(0, 1)
    for index, layer in enumerate(output.earlier):
        named[f"mid/aux{index}_pred_logits"] = layer.class_logits[:, :, 0]
        named[f"mid/aux{index}_pred_masks"] = layer.mask_logits
    return named


# Training


def run_training(case: Case) -> None:
    """Loss terms, matches, gradients, clipping and the first step of the optimiser."""
    state = case.filled()
    model, names = load(case, state)
    model.train()
    images = [image for _, image in case.numbered("in/image")]
    clips, placements = clips_of(images, model.config)
    targets = targets_of(case, placements)
    criterion = FAMILY.criterion(_loss_of(case))
    draws = iter([value for _, value in sorted(_draws(case).items())])
    criterion.draw = _given(draws)
    with recorded(model) as seen:
        text = model.encode_text(tokens_of(case))
        output = model.segment(model.encode_visual(clips), text)
    computed = intermediates(model, seen, text, output)
    computed |= {"out/pred_logits": output.class_logits[:, :, 0], "out/pred_masks": output.mask_logits}
    terms = criterion(output, targets)
    total = sum(terms.values())
    total.backward()
    published = {"class": "ce", "mask": "mask", "dice": "dice"}
    for name, term in terms.items():
        kind, _, ending = name.partition("_")
        computed[f"out/loss/loss_{published[kind]}" + (f"_{ending}" if ending else "")] = term
    computed["out/loss_total"] = total
    computed |= matches(case, criterion, output, targets)
    computed |= first_step(case, model, names)
    Comparison(case, computed).check()


def _draws(case: Case) -> dict[int, Tensor]:
    prefix = "in/rand/"
    found = [name for name in case.arrays if name.startswith(prefix)]
    return {int(name.removeprefix(prefix)): case.tensor(name) for name in found}


def _given(draws):
    def draw(rows: int, points: int, device: torch.device) -> Tensor:
        # Where nothing is matched the published code draws points for no row, and ours none at all.
        places = next(places for places in draws if len(places))
        assert places.shape == (rows, points, 2), f"{rows} rows of {points} points, recorded {places.shape}"
        return places

    return draw


def matches(case: Case, criterion, output: Output, targets: Targets) -> dict[str, Tensor]:
    """The matcher of every prediction, the one without a loss included, on its own recorded points."""
    every = _draws(case)
    layers = {"last": output} | {f"aux{index}": layer for index, layer in enumerate(output.earlier)}
    per_layer = len(every) // len(layers)
    named = {}
    for number, (name, layer) in enumerate(layers.items()):
        criterion.draw = _given(itertools.islice((every[i] for i in sorted(every)), number * per_layer, None))
        query = criterion.match(layer, targets)
        present = targets.visible.any(-1)
        for row, chosen in enumerate(query):
            pair = torch.stack([chosen, torch.zeros_like(chosen)])[:, None]
            named[f"out/match/{name}/{row}"] = pair if present[row] else pair[:, :0]
    return named


def first_step(case: Case, model, names: dict[str, str]) -> dict[str, Any]:
    """Gradients before and after clipping, and how far the recipe's optimiser moves each parameter."""
    run = recipe()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    wanted = [
        name.removeprefix("out/step_norm/") for name in case.arrays if name.startswith("out/step_norm/")
    ]
    computed: dict[str, Any] = {
        f"out/grad_norm/{name}": gradients[names[name]].norm().item() for name in wanted
    }
    optimizer = build_optimizer(model, FAMILY.param_rules, run.optimizer)
    set_learning_rate(optimizer, run.optimizer.lr * schedule_ratio(0, run.run.steps, run.schedule))
    moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
    computed["out/total_grad_norm"] = nn.utils.clip_grad_norm_(moved, run.optimizer.clip_norm)
    computed["out/clipped_grad_sum"] = sum(parameter.grad.abs().double().sum() for parameter in moved)
    parameters = dict(model.named_parameters())
    before = {name: parameters[names[name]].detach().clone() for name in wanted}
    optimizer.step()
    for name in wanted:
        computed[f"out/step_norm/{name}"] = (parameters[names[name]].detach() - before[name]).norm()
    return computed


def recipe() -> RunConfig:
    """The published recipe that refseg ships."""
    return read_recipe(find_recipe("vlformer/refcoco-r50"))


def targets_of(case: Case, placements) -> Targets:
    masks, visible = [], []
    for (_, mask), (_, ids), where in zip(
        case.numbered("in/gt_mask"), case.numbered("in/gt_ids"), placements, strict=True
    ):
        padded = torch.zeros(len(mask), *where.canvas, dtype=torch.bool)
        padded[:, : mask.shape[1], : mask.shape[2]] = mask.bool()
        masks.append(padded)
        visible.append(ids[0] != -1 if len(ids) else torch.zeros(len(mask), dtype=torch.bool))
    return Targets(
        masks=torch.stack(masks),
        visible=torch.stack(visible),
        boxes=torch.zeros(len(masks), masks[0].shape[0], 4),
        labels=torch.zeros(len(masks), dtype=torch.int64),
    )


def _loss_of(case: Case) -> settings.VLFormerLossConfig:
    told = case.config["criterion"]
    return settings.VLFormerLossConfig(
        class_weight=told["class_weight"],
        mask_weight=told["mask_weight"],
        dice_weight=told["dice_weight"],
        absent_weight=told["no_object_weight"],
        num_points=told["train_num_points"],
        oversampling=told["oversample_ratio"],
        uncertain_share=told["importance_sample_ratio"],
    )
