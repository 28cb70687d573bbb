"""Cases of VLFormer without weights: text, pixels, choice, metrics, drawing, data, the optimiser's settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from parity.case import Case, Comparison, NotBuilt
from refseg.encoders.tokenizers.clip import ClipTokenizer
from refseg.framing import place_frames, resize_frames
from refseg.media.drawing import red_overlay
from refseg.media.images import with_height
from refseg.metrics.contour import contour_accuracy
from refseg.metrics.protocols import VLFORMER
from refseg.metrics.scores import Pixels, overlap_scores
from refseg.models import catalog
from refseg.models.vlformer.config import FRAMES
from refseg.models.vlformer.family import FAMILY
from refseg.structures import Output, Placement
from refseg.training.optimizer import parameter_groups, schedule_ratio
from refseg.training.schema import OptimizerConfig


def run(case: Case) -> None:
    """Runs a case by what it tells."""
    from parity import vlformer_data

    told, config, arrays = case.manifest["inputs"], case.config, case.arrays
    runners = (
        ("tokenizer" in config, run_tokenizer),
        ("base_lr" in config, run_optimiser),
        ("min_size_test" in config, run_placing),
        ("augmentations" in config, vlformer_data.run_augmentation),
        ("in/mask" in arrays, run_overlay),
        ("in/predN, in/gtN" in told, run_metrics),
        ("in/pred_logits0" in arrays, run_choice),
        ("files" in told, vlformer_data.run_conversion),
        ("refcoco_train" in told, vlformer_data.run_records),
    )
    runner = next((runner for is_meant, runner in runners if is_meant), None)
    if runner is None:
        raise NotBuilt(f"the road of {case.id}")
    runner(case)


def run_tokenizer(case: Case) -> None:
    """Ids by CLIP's own vocabulary, which no test ships."""
    name = case.config["tokenizer"].split()[0]
    tokenizer = ClipTokenizer(name, max_tokens=77)
    if tokenizer.text is None:
        raise NotBuilt(
            f"CLIP's vocabulary: {name} is not in the Hugging Face cache, and no package brings it (make setup does)"
        )
    tokens = tokenizer.encode(case.manifest["inputs"]["texts"])
    assert tokens.values[0, 0] == case.config["begin"]
    Comparison(case, {"out/input_ids": tokens.values, "out/attention_mask": tokens.valid}).check()


def run_placing(case: Case) -> None:
    """The test-time resize, normalisation and padding."""
    spec = dataclasses.replace(
        FRAMES, size=case.config["min_size_test"], longest=case.config["max_size_test"]
    )
    computed = {}
    for i, image in case.numbered("in/image"):
        frames = image.permute(2, 0, 1)[None]
        pixels, placement = place_frames(frames, spec)
        resized = resize_frames(frames, placement.content, spec.filter)
        computed |= {
            f"out/size{i}": torch.tensor(placement.content),
            f"out/resized{i}": resized[0, :, ::6, ::6],
            f"out/sum{i}": resized.sum(dtype=torch.float64),
            f"out/padded_size{i}": torch.tensor(pixels.shape),
            f"out/normalized{i}": pixels[0, :, ::32, ::32],
        }
    Comparison(case, computed).check()


def run_choice(case: Case) -> None:
    """The chosen candidate and its masks at the size of the source."""
    with torch.device("meta"):
        model = catalog.build("vlformer", "debug")
    computed = {}
    for i, logits in case.numbered("in/pred_logits"):
        canvas, content, source = (tuple(size) for size in case.arrays[f"in/sizes{i}"].tolist())
        output = Output(case.tensor(f"in/pred_masks{i}")[None], logits[None, :, None])
        query, score = model.choose(output)
        [mask] = model.finish(output, [Placement(source, content, (0, 0), canvas)])
        computed |= {
            f"out/score{i}": score,
            f"out/query{i}": query[0],
            f"out/mask_shape{i}": torch.tensor(mask.shape),
            f"out/mask_bits{i}": np.packbits(mask.numpy()),
        }
    Comparison(case, computed).check()


def run_metrics(case: Case) -> None:
    """The published protocol on pairs of masks."""
    rows = []
    for i, shape in case.numbered("in/shape"):
        answer, target = (_unpacked(case, f"in/{kind}{i}", tuple(shape.tolist())) for kind in ("pred", "gt"))
        rows.append(
            Pixels(
                np.count_nonzero(answer & target),
                np.count_nonzero(answer),
                np.count_nonzero(target),
                contour_accuracy(answer, target),
            )
        )
    scores = overlap_scores(rows, VLFORMER)
    computed = {
        "out/iou": np.array([VLFORMER.iou(row.intersection, row.union) for row in rows]),
        "out/f1": np.array([row.contour for row in rows]),
        "out/mean_iou": scores["mIoU"],
        "out/mean_f1": scores["F"],
        "out/overall": scores["overall"],
    }
    computed |= {f"out/Pr@{round(100 * x)}": scores[f"P@{x}"] for x in VLFORMER.thresholds}
    Comparison(case, computed).check()


def _unpacked(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(case.arrays[name])[: math.prod(shape)].reshape(shape).astype(bool)


def run_overlay(case: Case) -> None:
    """The demo's picture, and the size it works at."""
    image, mask = case.arrays["in/image"], case.arrays["in/mask"].astype(bool)
    told = case.manifest["outputs"]["out/demo_resized"]
    assert told == "[::8, ::8] of it"
    resized = with_height(case.tensor("in/image").permute(2, 0, 1), int(case.arrays["out/demo_size"][0]))
    computed = {
        "out/overlay": red_overlay(image, mask),
        "out/overlay_full": red_overlay(image, np.ones_like(mask)),
        "out/demo_size": torch.tensor(resized.shape[1:]),
        "out/demo_resized": resized.permute(1, 2, 0)[::8, ::8],
    }
    Comparison(case, computed).check()


def run_optimiser(case: Case) -> None:
    """Learning rate and decay of every parameter, and the rate over the run, by the recipe that refseg ships."""
    from parity.vlformer import recipe

    told, run = case.config, recipe()
    settings = run.optimizer
    assert (settings.lr, settings.weight_decay) == (told["base_lr"], told["weight_decay"])
    assert (settings.clip_norm, run.run.steps) == (told["clip_full_model_norm"], told["max_iter"])
    assert list(settings.betas) == told["adamw"]["betas"]
    expected = case.manifest["outputs"]["param_groups"]
    deepest = max(int(name.split(".")[2]) for name in expected if name.startswith("backbone.res4."))
    with torch.device("meta"):
        model = catalog.build("vlformer", "resnet50" if deepest == 5 else "resnet101")
    _, report = FAMILY.convert({name: torch.empty(0) for name in expected}, model.config)
    assert not report.left, report.left
    groups = parameter_groups(model, FAMILY.param_rules, OptimizerConfig(**settings.model_dump()))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == set(report.renamed.values())
    for name, (rate, decay) in expected.items():
        np.testing.assert_allclose(trained[report.renamed[name]], (rate, decay), rtol=1e-9, err_msg=name)
    for step, rates in case.manifest["outputs"]["lr_at_iteration"].items():
        ratio = schedule_ratio(int(step), run.run.steps, run.schedule)
        np.testing.assert_allclose(settings.lr * ratio, rates["rest"], rtol=1e-9, err_msg=step)
        np.testing.assert_allclose(settings.lr * 0.1 * ratio, rates["backbone"], rtol=1e-9, err_msg=step)
