"""Cases of ReferFormer without weights: what comes before and after the network, and how answers are scored."""

from __future__ import annotations

import dataclasses
import re

import torch
from torch import Tensor

from parity.case import Case, Comparison, NotBuilt
from refseg.data.augment import geometric
from refseg.data.collate import carried_boxes
from refseg.framing import place_frames
from refseg.metrics import average_precision, contour
from refseg.models.referformer import config as settings
from refseg.models.referformer import finish
from refseg.models.referformer.model import best_candidate
from refseg.structures import Example, Output, Placement


def run(case: Case) -> None:
    """Runs a case by the arrays it holds."""
    if "steps" in case.config:
        return run_transforms(case)
    marks = {
        "in/davis_gt": run_metrics,
        "out/tensor_shape": run_video,
        "in/frame_0": run_objects,
        "in/pred_boxes": run_ranked,
        "in/orig_size": run_candidates,
    }
    for name, runner in marks.items():
        if name in case.arrays:
            return runner(case)
    raise NotBuilt(f"a ReferFormer case with the arrays {sorted(case.arrays)}")


def run_video(case: Case) -> None:
    """Ref-YouTube-VOS: frames onto the canvas, one candidate for the clip, masks at the source."""
    frames = case.tensor("in/frames").permute(0, 3, 1, 2)
    spec = dataclasses.replace(settings.VIDEO_FRAMES, size=case.config["resize_short_side"])
    pixels, placement = place_frames(frames, spec)
    computed = {
        "out/tensor_shape": torch.tensor(pixels.shape),
        "out/tensor_sub": pixels[:, :, ::23, ::29],
        "out/tensor_row": pixels[0, :, pixels.shape[2] // 3].flatten(1),
        "out/size": torch.tensor(placement.content),
    }
    for i, logits in case.numbered("in/pred_masks_"):
        query, masks = _chosen(case.tensor(f"in/pred_logits_{i}"), logits)
        computed[f"out/query_{i}"] = query
        threshold = case.config["threshold"]
        # The case's logits are smaller than the canvas of its frames: a canvas of their own is given.
        own = Placement(placement.source, _canvas(logits), (0, 0), _canvas(logits))
        computed[f"out/masks_{i}"] = finish.finish_masks(masks, own, threshold, protocol="video")
    Comparison(case, computed).check()


def _chosen(class_logits: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate of [T, Q, K] and [T, Q, h, w], and its mask logits [T, h, w]."""
    query = best_candidate(class_logits.transpose(0, 1)[None])[0][0]
    return query, mask_logits[:, query]


def _canvas(logits: Tensor) -> tuple[int, int]:
    return logits.shape[-2] * 4, logits.shape[-1] * 4


def run_objects(case: Case) -> None:
    """Ref-DAVIS17: clips of 36 frames, each with its own candidate; objects of an annotator on one map."""
    told = case.config
    assert told["clip_length"] == finish.DAVIS_CLIP
    assert told["background_score"] == finish.DAVIS_BACKGROUND
    assert told["object_threshold"] == finish.DAVIS_THRESHOLD
    source = tuple(case.arrays["in/frame_0"].shape[:2])
    scores = {}
    for i, logits in case.numbered("in/pred_masks_"):
        placement = Placement(source, _canvas(logits), (0, 0), _canvas(logits))
        classes = case.tensor(f"in/pred_logits_{i}").split(finish.DAVIS_CLIP)
        clips = zip(classes, logits.split(finish.DAVIS_CLIP), strict=True)
        scores[i] = torch.cat([finish.video_scores(_chosen(*clip)[1], placement) for clip in clips])
    annotators = [int(name.removeprefix("out/anno_")) for name in case.arrays if name.startswith("out/anno_")]
    objects = range(told["num_objects"])
    computed = {
        f"out/anno_{a}": finish.merge_objects([scores[4 * number + a] for number in objects])
        for a in annotators
    }
    Comparison(case, computed).check()


def _output(case: Case) -> Output:
    """[B, T, Q, ...] as published, to [P, Q, T, ...]."""
    boxes = case.tensor("in/pred_boxes").transpose(1, 2) if "in/pred_boxes" in case.arrays else None
    masks, classes = (case.tensor(f"in/pred_{key}").transpose(1, 2) for key in ("masks", "logits"))
    return Output(masks, classes, boxes)


def _placements(case: Case) -> list[Placement]:
    canvas = _canvas(case.tensor("in/pred_masks"))
    sizes = zip(case.arrays["in/orig_size"].tolist(), case.arrays["in/size"].tolist(), strict=True)
    return [Placement(tuple(source), tuple(content), (0, 0), canvas) for source, content in sizes]


def run_candidates(case: Case) -> None:
    """A2D and JHMDB: every candidate with its score."""
    computed = {}
    for i, row in enumerate(finish.all_candidates(_output(case), _placements(case))):
        computed |= {f"out/scores_{i}": row.scores, f"out/masks_{i}": row.masks[:, 0]}
    Comparison(case, computed).check()


def run_ranked(case: Case) -> None:
    """RefCOCO/+/g: candidates best first, with boxes."""
    computed = {}
    ranked = finish.rank_candidates(_output(case), _placements(case), case.config["threshold"])
    for i, row in enumerate(ranked):
        computed |= {
            f"out/scores_{i}": row.scores,
            f"out/masks_{i}": row.masks[:, 0],
            f"out/boxes_{i}": row.boxes,
        }
        computed[f"out/labels_{i}"] = torch.ones(len(row.scores))
    Comparison(case, computed).check()


def run_metrics(case: Case) -> None:
    """Section 6: the best-scored candidate, COCO's average precision, J and F of a video."""
    samples = [
        average_precision.Ranked(number, scores, masks.bool(), target.bool())
        for number, (scores, masks, target) in enumerate(
            zip(*(case.tensor(f"in/{key}") for key in ("scores", "pred", "gt")), strict=True)
        )
    ]
    precision = average_precision.average_precision(samples)
    masks = average_precision.best_masks(samples)
    wanted = case.tensor("in/gt_boxes_xywh").clone()
    wanted[:, 2:] += wanted[:, :2]
    boxes = average_precision.best_boxes(case.tensor("in/scores"), case.tensor("in/pred_boxes_xyxy"), wanted)
    video = contour.unsupervised(
        *(case.arrays[f"in/davis_{key}"] for key in ("pred", "gt")), case.arrays["in/davis_void"] > 0
    )
    series = [[contour.statistics(rows) for rows in part] for part in (video.region, video.contour)]
    computed: dict[str, object] = {
        "out/coco_segm_stats": dataclasses.astuple(precision),
        "out/davis_J": video.region,
        "out/davis_F": video.contour,
        "out/davis_stats": [
            [*dataclasses.astuple(j), *dataclasses.astuple(f)] for j, f in zip(*series, strict=True)
        ],
        "out/davis_JF": video.mean,
    }
    for key, best in (("mask", masks), ("box", boxes)):
        computed |= {f"out/{key}_precision": best.precision, f"out/{key}_overall_iou": best.overall_iou}
        computed[f"out/{key}_mean_iou"] = best.mean_iou
    Comparison(case, computed).check()


def run_transforms(case: Case) -> None:
    """Training transforms with the parameters that the case's steps name, in their order."""
    frames, masks = case.tensor("in/frames").permute(0, 3, 1, 2), case.tensor("in/masks")[None] > 0
    clip = Example("case", frames, (case.config["caption_in"],), masks, boxes=case.tensor("in/boxes")[None])
    measured = geometric.with_measured_boxes(dataclasses.replace(clip, boxes=None)).boxes
    computed: dict[str, object] = {"out/mask_boxes": measured[0, : len(case.arrays["out/mask_boxes"])]}
    for step in case.config["steps"]:
        clip, name = _transformed(clip, step)
        if f"out/boxes_{name}" not in computed:  # the case keeps what the first step of a kind gives
            computed |= {f"out/boxes_{name}": clip.boxes[0], f"out/masks_{name}": clip.masks[0]}
            computed[f"out/size_{name}"] = torch.tensor(geometric.size_of(clip))
    computed |= {"out/masks": clip.masks[0], "out/size": torch.tensor(geometric.size_of(clip))}
    computed["out/pixels"] = clip.frames.permute(0, 2, 3, 1)
    boxes, seen = carried_boxes(clip)
    spec = dataclasses.replace(settings.DATASET_FRAMES, fit="keep", divisor=1)
    computed["out/tensor_sub"] = place_frames(clip.frames, spec)[0][:, :, ::7, ::9]
    computed |= {"out/boxes": boxes[0], "out/valid": seen[0]}
    assert clip.phrases == (case.config["caption_out"],)
    Comparison(case, computed).check()


def _transformed(clip: Example, step: str) -> tuple[Example, str]:
    """The clip after a step that the case names in words, and what its arrays call that step."""
    numbers = [int(number) for number in re.findall(r"\d+", step)]
    if step.startswith("horizontal flip"):
        return geometric.mirror(clip), "flip"
    if step.startswith("resize"):
        longest = numbers[1] if len(numbers) > 1 else None
        return geometric.resize(clip, numbers[0], longest=longest, masks="corner"), "resize"
    if step.startswith("crop"):
        named = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", step)}
        return geometric.crop(clip, named["top"], named["left"], (named["h"], named["w"])), "crop"
    if step == "check":
        return geometric.with_checked_boxes(clip), "check"
    if step.startswith("to tensor"):
        return clip, "tensor"
    raise NotBuilt(f"the transform {step!r}")
