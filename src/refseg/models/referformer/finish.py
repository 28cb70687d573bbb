"""Mask logits to masks, in the orders in which the published results were made; order is behaviour.

video (Ref-YouTube-VOS, Ref-DAVIS17): logits straight to the size of the source, then scores, then the threshold.
image (RefCOCO/+/g, A2D, JHMDB): logits four times as large, scores, threshold, cut the content, then nearest to the
    size of the source; masks are thresholded before the last resize.

Beside `finish_masks`, which every prediction uses, stand the readings that only a benchmark asks for: all candidates
with scores (A2D, JHMDB), ranked candidates with boxes (RefCOCO/+/g), several objects of one video (Ref-DAVIS17).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from refseg.models.base import Candidates, Ruler
from refseg.models.referformer.config import Protocol
from refseg.models.referformer.mask_head import STRIDE
from refseg.structures import Output, Placement, Size

DATASET_THRESHOLD = 0.5  # Published behaviour: A2D and JHMDB ignore the threshold that is asked for.
DAVIS_CLIP = 36  # frames that are segmented at once, with one chosen candidate
DAVIS_BACKGROUND = 0.1  # score of "none of the objects"
DAVIS_THRESHOLD = 0.5  # an object's score below it counts as zero


def finish_masks(
    logits: Tensor, placement: Placement, threshold: float, *, protocol: Protocol, at: Ruler = "source"
) -> Tensor:
    """Bool masks [..., H, W] of mask logits [..., h, w], at the source or on the canvas."""
    if at == "canvas":
        return _to_canvas(logits, placement.canvas).sigmoid() > threshold
    if protocol == "video":
        return video_scores(logits, placement) > threshold
    return _threshold_then_source(logits, placement, threshold)


def video_scores(logits: Tensor, placement: Placement) -> Tensor:
    """Scores [..., H, W] at the source of logits [..., h, w], resized in one step.

    Published behaviour: the cells count as covering the content exactly, though its sides are seldom multiples of 4.
    """
    h, w = (-(-side // STRIDE) for side in placement.content)
    return _resize(logits[..., :h, :w], placement.source, "bilinear").sigmoid()


def all_candidates(
    output: Output, placements: Sequence[Placement], threshold: float = DATASET_THRESHOLD
) -> list[Candidates]:
    """A2D and JHMDB: every candidate of the frame to segment, in the network's order, with its score; one class.

    Shapes:
        placements: P of them, one a phrase.
    """
    assert output.class_logits is not None
    scores = output.class_logits[:, :, 0, 0].sigmoid()
    boxes = None if output.boxes is None else output.boxes[:, :, 0]
    return [
        Candidates(
            scores[p],
            _threshold_then_source(output.mask_logits[p, :, :1], placement, threshold),
            None if boxes is None else _to_source_xyxy(boxes[p], placement.source),
        )
        for p, placement in enumerate(placements)
    ]


def rank_candidates(output: Output, placements: Sequence[Placement], threshold: float) -> list[Candidates]:
    """RefCOCO/+/g: as many pairs of frame's candidate and class as there are candidates, best first, with boxes.

    Published behaviour: with several classes one candidate may appear more than once.
    """
    assert output.class_logits is not None and output.boxes is not None
    ranked = []
    for p, placement in enumerate(placements):
        scores = output.class_logits[p].transpose(0, 1).flatten(0, 1).sigmoid()  # [T*Q, K]
        logits = output.mask_logits[p].transpose(0, 1).flatten(0, 1)  # [T*Q, h, w]
        boxes = output.boxes[p].transpose(0, 1).flatten(0, 1)  # [T*Q, 4]
        best = scores.flatten().topk(len(scores))
        index = best.indices // scores.shape[1]
        masks = _threshold_then_source(logits[:, None], placement, threshold)
        ranked.append(Candidates(best.values, masks[index], _to_source_xyxy(boxes[index], placement.source)))
    return ranked


def merge_objects(scores: Sequence[Tensor]) -> Tensor:
    """Ref-DAVIS17: score maps [T, H, W] of a video's objects to one index map [T, H, W], 0 for background."""
    clear = [torch.where(part < DAVIS_THRESHOLD, torch.zeros_like(part), part) for part in scores]
    background = torch.full_like(clear[0], DAVIS_BACKGROUND)
    return torch.stack([background, *clear]).argmax(0).to(torch.uint8)


def _to_canvas(logits: Tensor, canvas: Size) -> Tensor:
    """Four times as large; the cells of a canvas whose sides are no multiples of 4 reach beyond it."""
    h, w = logits.shape[-2:]
    return _resize(logits, (h * STRIDE, w * STRIDE), "bilinear")[..., : canvas[0], : canvas[1]]


def _threshold_then_source(logits: Tensor, placement: Placement, threshold: float) -> Tensor:
    h, w = placement.content
    masks = _to_canvas(logits, placement.canvas)[..., :h, :w].sigmoid() > threshold
    return _resize(masks.float(), placement.source, "nearest") > 0.5


def _resize(maps: Tensor, size: Size, mode: str) -> Tensor:
    """[..., h, w] to [..., H, W] by `mode`."""
    flat = maps.float().reshape(1, -1, *maps.shape[-2:])
    corners = False if mode == "bilinear" else None
    resized = functional.interpolate(flat, size, mode=mode, align_corners=corners)
    return resized.view(*maps.shape[:-2], *size)


def _to_source_xyxy(boxes: Tensor, source: Size) -> Tensor:
    """cxcywh in [0, 1] to xyxy in pixels of the source."""
    centre, extent = boxes[..., :2], boxes[..., 2:]
    scale = boxes.new_tensor([source[1], source[0]])
    return torch.cat([(centre - extent / 2) * scale, (centre + extent / 2) * scale], dim=-1)
