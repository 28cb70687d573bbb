"""Cases of VPD without its network: words, pixels, annotations, metrics."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
from torch import Tensor

from parity.case import Case, Comparison, NotBuilt
from parity.vpd import text_of, text_weights
from refseg.data.formats.masks import check_parts, draw
from refseg.encoders.clip_text import ClipTextTower
from refseg.framing import masks_to_canvas, place_frames, resize_frames
from refseg.metrics.protocols import VPD, find_protocol
from refseg.metrics.scores import Pixels, overlap_scores
from refseg.models import catalog
from refseg.models.vpd import config as settings
from refseg.models.vpd.family import FAMILY
from refseg.models.vpd.head import BACKGROUND, OBJECT
from refseg.structures import Output, Placement


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    return run_post(case) if "out/image_mean" in case.arrays else run_text(case)


# Words


def run_text(case: Case) -> None:
    """Ids and which of them are words, for each length; what the tower says of the first phrases."""
    hidden = {
        name: _said(case, int(name.rsplit("_", 1)[1]), len(values))
        for name, values in case.arrays.items()
        if name.startswith("out/last_hidden_state_")
    }
    limits = case.manifest["tolerance"]
    for name, values in hidden.items():
        torch.testing.assert_close(values, case.tensor(name), rtol=limits["rtol"], atol=limits["atol"])
    lengths = [int(found[1]) for name in case.arrays if (found := re.fullmatch(r"out/input_ids_(\d+)", name))]
    computed = dict(hidden)
    for length in lengths:
        tokens = _tokenizer(case, length).encode(case.manifest["inputs"]["texts"])
        computed[f"out/input_ids_{length}"] = tokens.values
        computed[f"out/attention_mask_{length}"] = tokens.valid
        assert torch.equal(tokens.values, case.tensor(f"out/input_ids_{length}")), f"ids of length {length}"
    Comparison(case, computed).check()


def _said(case: Case, length: int, count: int) -> Tensor:
    """The tower by the family's conversion, on the case's ids: they are compared with ours apart from it."""
    spec = text_of(case.config["text"], case.manifest["text_state_dict"])
    converted, report = FAMILY.convert(text_weights(case), settings.VPDConfig(text=spec))
    assert not report.left, f"{case.id}: no rule for {report.left}"
    with torch.device("meta"):
        tower = ClipTextTower(spec)
    state = {name.removeprefix("text_tower."): tensor for name, tensor in converted.items()}
    tower.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        return tower(case.tensor(f"out/input_ids_{length}")[:count])


def _tokenizer(case: Case, length: int):
    """The model's own, with the vocabulary that the case names."""
    name = case.config["tokenizer"].split()[0]
    text = dataclasses.replace(settings.VARIANTS["debug"].text, tokenizer=name)
    with torch.device("meta"):
        tokenizer = catalog.build("vpd", "debug", num_tokens=length, text=text).tokenizer
    if tokenizer.text is None:
        raise NotBuilt(
            f"CLIP's vocabulary: {name} is not in the Hugging Face cache, and no package brings it (make setup does)"
        )
    return tokenizer


# Before and after the network


def run_post(case: Case) -> None:
    """An annotation and a picture onto the canvas; logits to masks; masks to numbers."""
    told = case.config
    spec = dataclasses.replace(settings.SQUARE_FRAMES, size=told["img_size"])
    assert (list(spec.mean), list(spec.std)) == (told["mean"], told["std"])
    picture = case.tensor("in/image").permute(2, 0, 1)[None]
    size = (told["image_height"], told["image_width"])
    annotation = draw(check_parts(told["polygons"], size), size, "exactly-one")
    pixels, placement = place_frames(picture, spec)
    resized = resize_frames(picture, placement.content, spec.filter)[0]
    image = pixels[0]
    every, small = (_step(case, name) for name in ("out/image", "out/resized_uint8"))
    computed: dict[str, object] = {
        "out/annotation": _packed(annotation),
        "out/target": _packed(masks_to_canvas(annotation[None], placement)[0]),
        "out/resized_uint8": resized.permute(1, 2, 0)[::small, ::small],
        "out/image": image[:, ::every, ::every],
        "out/image_mean": image.double().mean((1, 2)),
    }
    computed |= _measured(case, placement)
    for name in ("out/annotation", "out/target", "out/resized_uint8"):
        assert np.array_equal(np.asarray(computed[name]), case.arrays[name]), f"{case.id}: {name} differs"
    Comparison(case, computed).check()


def _step(case: Case, name: str) -> int:
    """Every how many pixels of a picture the case keeps; its manifest says it as in `[:,::8,::8]`."""
    found = re.search(r"::(\d+)", case.manifest["outputs"][name])
    return int(found[1]) if found else 1


def _packed(mask: Tensor) -> np.ndarray:
    return np.packbits(mask.numpy(), axis=-1)


def _measured(case: Case, placement: Placement) -> dict[str, object]:
    """The masks of logits as users get them, and the published protocol's numbers of them."""
    assert find_protocol(FAMILY.protocols, "refcoco") is VPD
    width = placement.canvas[1]
    targets = torch.from_numpy(np.unpackbits(case.arrays["in/metric_targets"], axis=-1)[..., :width]) > 0
    targets = targets.repeat_interleave(case.tensor("in/sentences_per_ref"), 0)
    logits = case.tensor("in/metric_logits")
    output = Output((logits[:, OBJECT] - logits[:, BACKGROUND])[:, None, None])
    with torch.device("meta"):
        model = catalog.build("vpd", "debug")
    answers = torch.cat(model.finish(output, [placement] * len(logits), at="canvas"))
    rows = [
        Pixels(int((answer & target).sum()), int(answer.sum()), int(target.sum()))
        for answer, target in zip(answers, targets, strict=True)
    ]
    scores = overlap_scores(rows, VPD)
    names = ["mIoU", "oIoU", *(f"P@{threshold}" for threshold in VPD.thresholds)]
    return {
        "out/metric_intersection": [row.intersection for row in rows],
        "out/metric_union": [row.union for row in rows],
        "out/metric_iou": [VPD.iou(row.intersection, row.union) for row in rows],
        "out/metric_summary": [100 * scores[name] for name in names],
    }
