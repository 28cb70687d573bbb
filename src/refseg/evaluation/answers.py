"""Answers of a predictor, finished in as many ways as the protocols of an evaluation ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refseg.evaluation.views import OWN, Plan, View

if TYPE_CHECKING:
    from refseg.models.base import Candidates, ReferringModel
    from refseg.predictor import EncodedClip, Predictor
    from refseg.structures import Output, Placement

_MOST_PIXELS = 1 << 28  # of masks that are held at once


@dataclass(slots=True)
class Answer:
    """All that is asked of one phrase about one clip, or a piece of it."""

    score: float | None
    masks: dict[View, Tensor]  # [T', H, W] bool on the CPU, at the size of their view
    placement: Placement | None = None
    candidates: Candidates | None = None
    soft: Tensor | None = None  # [T', H, W] scores at source size


def ask(predictor: Predictor, clip: EncodedClip, phrases: Sequence[str], plan: Plan) -> Iterator[Answer]:
    """The answers to `phrases`, in their order; few at a time where masks are large.

    Where nothing but the user's own masks is asked for, this is `Predictor.segment`.

    Raises:
        InvalidInput: as `Predictor.segment`.
    """
    needs_more = len(plan.views) > 1 or plan.takes_candidates or plan.merges_objects
    if not needs_more:
        for answer in predictor.segment(clip, phrases):
            yield Answer(answer.score, {OWN: answer.masks})
        return
    height, width = clip.source
    step = max(1, _MOST_PIXELS // (height * width * len(clip.target_frames)))
    for start in range(0, len(phrases), step):
        for output in predictor.outputs(clip, phrases[start : start + step]):
            yield from _finished(predictor.model, output, clip.placement, plan)


def _finished(model: ReferringModel, output: Output, placement: Placement, plan: Plan) -> Iterator[Answer]:
    placements = [placement] * len(output.mask_logits)
    with torch.no_grad():
        _, scores = model.choose(output)
        masks = {view: _masks(model, output, placements, view) for view in _answer_views(plan)}
        candidates = model.candidates(output, placements) if plan.takes_candidates else None
        soft = model.soft_masks(output, placements) if plan.merges_objects else None
    for row in range(len(placements)):
        yield Answer(
            score=None if scores is None else float(scores[row]),
            masks={view: masks[View(view.at, view.threshold)][row].cpu() for view in plan.views},
            placement=placement,
            candidates=None if candidates is None else candidates[row],
            soft=None if soft is None else soft[row].cpu(),
        )


def _answer_views(plan: Plan) -> set[View]:
    """Views without their reading of the target, which answers do not depend on."""
    return {View(view.at, view.threshold) for view in plan.views}


def _masks(
    model: ReferringModel, output: Output, placements: Sequence[Placement], view: View
) -> list[Tensor]:
    with _threshold(model, view.threshold):
        return model.finish(output, placements, view.at)


@contextmanager
def _threshold(model: ReferringModel, threshold: float | None) -> Iterator[None]:
    own = model.config
    try:
        if threshold is not None:
            model.config = replace(own, threshold=threshold)
        yield
    finally:
        model.config = own
