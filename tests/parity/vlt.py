"""Cases of VLT: published names -> convert -> build -> strict load -> verbs -> outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.case import Case, Comparison, NotBuilt
from refseg.framing import place_frames, valid_area
from refseg.models import catalog
from refseg.models.vlt import config as settings
from refseg.models.vlt.family import FAMILY
from refseg.models.vlt.keras_layout import parts
from refseg.models.vlt.loss import VltCriterion
from refseg.models.vlt.model import Vlt
from refseg.structures import Clips, Targets, TextTokens
from refseg.training.optimizer import build_optimizer
from refseg.training.schema import OptimizerConfig


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if not case.manifest.get("state_dict"):
        from parity import vlt_plain

        return vlt_plain.run(case)
    if not case.arrays:
        return run_layout(case)
    return run_training(case) if "out/total_loss" in case.arrays else run_forward(case)


# Configuration


def config_of(case: Case) -> settings.VltConfig:
    """The configuration that a manifest tells in the published program's words."""
    told = case.config
    width = round(32 * told["backbone_width"])
    if not told.get("lang_att", True):
        raise NotBuilt(
            "VLT without attention over the words, which the published program cannot build either"
        )
    assert told["jemb_dim"] == 32 * width, "the fused width is that of the backbone's coarsest map"
    assert told["hidden_dim"] == told["transformer_hidden_dim"]
    return settings.VltConfig(
        frame=replace(settings.LETTERBOX, size=told["input_size"]),
        stride=told["seg_out_stride"],
        backbone_width=width,
        max_words=told["word_len"],
        word_dim=told["embed_dim"],
        gru_dim=told["rnn_hidden_size"],
        is_bidirectional=told["rnn_bidirectional"],
        dim=told["hidden_dim"],
        num_heads=told["transformer_head_num"],
        num_encoder_layers=told["transformer_encoder_num"],
        num_decoder_layers=told["transformer_decoder_num"],
        num_queries=told["num_query"],
        input_dropout=told["rnn_drop_out"],
        dropout=told.get("dropout", 0.1),
        frozen=_frozen(told.get("freeze_layers", 197)),
    )


def _frozen(layers: int) -> settings.Frozen:
    if layers == 0:
        return "none"
    return "backbone" if layers == 197 else "all but last"


# The road


def load(case: Case, state: dict[str, Tensor]) -> tuple[Vlt, dict[str, str]]:
    """The model with the case's weights, in evaluation mode, and published names to ours."""
    config = config_of(case)
    converted, report = FAMILY.convert(state, config)
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        model = catalog.build("vlt", config)
    model.load_state_dict(converted, strict=True, assign=True)
    for name, parameter in catalog_flags(config).items():
        model.get_parameter(name).requires_grad_(parameter)
    assert isinstance(model, Vlt)
    return model.eval(), report.renamed


def catalog_flags(config: settings.VltConfig) -> dict[str, bool]:
    """Which parameters a freshly built model trains; loading by assignment forgets it."""
    with torch.device("meta"):
        return {name: p.requires_grad for name, p in catalog.build("vlt", config).named_parameters()}


def run_layout(case: Case) -> None:
    """Names and shapes alone: the conversion is complete in both directions, and the order is that of the file."""
    load(case, case.shapes())
    layout = parts(config_of(case))
    assert list(layout) == case.manifest.get("layer_order", list(layout))
    assert [part.published for layer in layout.values() for part in layer] == list(
        case.manifest["state_dict"]
    )


def inputs_of(case: Case) -> tuple[Clips, TextTokens]:
    """The case's pictures on their canvas, and its word vectors."""
    spec = config_of(case).frame
    frames = case.tensor("in/image").permute(0, 3, 1, 2)
    placed = [place_frames(frame[None], spec) for frame in frames]
    clips = Clips(
        torch.stack([pixels for pixels, _ in placed]),
        torch.stack([valid_area(where) for _, where in placed]),
        torch.tensor([where.content for _, where in placed]),
    )
    words = case.tensor("in/words")
    return clips, TextTokens(words, words.abs().sum(-1) > 0)


@torch.no_grad()
def run_forward(case: Case) -> None:
    """Logits and intermediates."""
    model, _ = load(case, case.filled())
    clips, tokens = inputs_of(case)
    with _recorded(model) as seen:
        output = model.segment(model.encode_visual(clips), model.encode_text(tokens))
    logits = output.mask_logits[:, 0].permute(0, 2, 3, 1)  # [N, h, w, 1]
    computed = seen | {"out/logits": _stored(case, "out/logits", logits)}
    if "out/logits_stats" in case.arrays:
        flat = logits.flatten(1).double()
        stats = (flat.mean(1), flat.std(1, correction=0), flat.amin(1), flat.amax(1))
        computed["out/logits_stats"] = torch.stack(stats, dim=1)
    computed = {
        name: _stored(case, name, value) if name.startswith("mid/") and name in case.arrays else value
        for name, value in computed.items()
    }
    Comparison(case, computed).check()


def _stored(case: Case, name: str, values: Tensor) -> Tensor:
    """The part of an array that the case keeps; its manifest says it as in `slice [:, ::7, ::8]`."""
    text = case.manifest["outputs"].get(name, "")
    found = re.search(r"slice \[([\d:, ]+)\]", text if isinstance(text, str) else "")
    if found is None:
        return values
    steps = [part.strip() for part in found.group(1).split(",")]
    return values[tuple(slice(*(int(n) if n else None for n in step.split(":"))) for step in steps)]


@contextmanager
def _recorded(model: Vlt) -> Iterator[dict[str, Any]]:
    """Intermediates by their published names, in the order of computation, while the block runs."""
    seen: dict[str, Any] = {}

    def keep(module, names, tell=lambda value: value):
        def hook(_module, _inputs, output):
            values = output if isinstance(output, tuple) else (output,)
            for name, value in zip(names, values, strict=True):
                told = tell(value)
                earlier = [seen[f"mid/{name}"]] if f"mid/{name}" in seen else []
                seen[f"mid/{name}"] = torch.cat([*earlier, told])  # pictures come one by one

        return module.register_forward_hook(hook)

    def last(maps):
        return maps.movedim(1, -1)

    hooks = [
        keep(model.backbone, ("c3", "c4", "c5"), last),
        keep(model.phrase, ("fq_word", "word_attn")),
        keep(model.fusion, ("fm", "fm_mid_query", "fm_query", "f_tf"), last),
        keep(model.queries.maps, ("querynet",), last),
        keep(model.queries.cells, ("query_flat",), torch.relu),
        keep(model.queries.words, ("lang_feat",), torch.relu),
        keep(model.queries.attention, ("fusion_attn",)),
        *(keep(layer, (f"encoder_{n}",)) for n, layer in enumerate(model.encoder, start=1)),
        *(keep(layer.self_norm, (f"decoder_{n}_self",)) for n, layer in enumerate(model.decoder, start=1)),
        *(keep(layer, (f"decoder_{n}",)) for n, layer in enumerate(model.decoder, start=1)),
        keep(model.balance.weight, ("query_confidence",), torch.sigmoid),
        keep(model.head.convs[0], ("tf_out",), last),
        keep(model.head.convs[-1], ("head_last",), last),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


# Training


def run_training(case: Case) -> None:
    """Losses, gradients and moving averages of one real step, in double precision."""
    model, names = load(case, case.filled())
    model = model.double().train()
    clips, tokens = (part.to(dtype=torch.float64) for part in inputs_of(case))
    settled = OptimizerConfig(kind="keras_adam", lr=1e-3, eps=1e-7, weight_decay=0.0)
    optimizer = build_optimizer(model, FAMILY.param_rules, settled)
    output = model.segment(model.encode_visual(clips), model.encode_text(tokens))
    terms = VltCriterion(FAMILY.loss)(output, _targets(case))
    sum(terms.values()).backward()
    parameters = dict(model.named_parameters())
    prefix = "out/grad_norm/"
    computed = {
        "out/logits_train": output.mask_logits[:, 0].permute(0, 2, 3, 1),
        "out/mask_loss": terms["mask"],
        "out/reg_loss": terms["penalty"],
        "out/total_loss": sum(terms.values()),
    }
    for name in (name for name in case.arrays if name.startswith(prefix)):
        computed[name] = parameters[names[name.removeprefix(prefix)]].grad.norm()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer.step()
    state = model.state_dict()
    for name in (name for name in case.arrays if name.startswith("out/after_step/")):
        computed[name] = state[names[name.removeprefix("out/after_step/")]]
    Comparison(case, computed).check()
    for name in (name for name in case.arrays if name.startswith("mid/after_step_delta/")):
        ours = names[name.removeprefix("mid/after_step_delta/")]
        moved = state[ours] - before[ours]
        flat = moved.permute(2, 3, 1, 0).flatten() if moved.ndim == 4 else moved.flatten()
        np.testing.assert_allclose(flat[:512], case.arrays[name], rtol=0.01, atol=1e-6, err_msg=name)


def _targets(case: Case) -> Targets:
    """The case's soft masks, each pixel as large as a cell of the logits."""
    masks = case.tensor("in/mask")[..., 0][:, None]  # [N, 1, h, w]
    stride = case.config["seg_out_stride"]
    canvas = masks.repeat_interleave(stride, -1).repeat_interleave(stride, -2)
    count = len(masks)
    nothing = torch.zeros(count, dtype=torch.int64)
    return Targets(canvas, torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1, 4), nothing)
