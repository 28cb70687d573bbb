"""The objective of clips: the loss of phrases, and beside it how the thing in each cell moves.

Motion is a handful of kinds, and every thing of a clip shows one; phrases alone would teach it one thing at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel
from refseg.structures import Batch, Targets, Things

from .config import ScoutConfig, ScoutLoss
from .loss import ScoutCriterion
from .naming import COVERED, STRIDE, owners, weighted_entropy

if TYPE_CHECKING:
    from .model import Scout

MOTION_WEIGHT = 0.5
CUE_WEIGHT = 1.0


def phrases_and_motion(model: ReferringModel, batch: Batch) -> dict[str, Tensor]:
    """The terms of scout's criterion, and two over the cells of clips.

    "motion" is the cross-entropy of motions in every frame, "cue" that of whether a cell belongs to what a phrase means, as
    far as motion alone can tell. Pictures have no motion, and both are zero.

    Raises:
        InvalidInput: if the data carry no masks, or the data of clips do not tell how things move.
    """
    if batch.targets is None:
        raise InvalidInput("the data set carries no masks to learn from")
    scout: Scout = model  # type: ignore[assignment]
    visual, concluded = scout.see(batch.clips)
    tokens = scout.tokenize(batch.phrases).to(batch.clips.pixels.device)
    rows, text = visual.rows(batch.clip_of_phrase), scout.encode_text(tokens)
    output = scout.segment(rows, text)
    with torch.autocast(batch.clips.pixels.device.type, enabled=False):
        terms = ScoutCriterion(ScoutLoss())(output.to(dtype=torch.float32), batch.targets)
    if concluded is None:
        zero = output.mask_logits.new_zeros(())
        return {**terms, "motion": zero, "cue": zero}
    assert text.sentence is not None
    labels, weights = motion_labels(batch.targets, scout.config)
    entropy = weighted_entropy(scout.naming.motions(concluded), labels, weights)
    cue = _cue_entropy(scout.cue(rows.maps[2], text.sentence), batch, weights)
    return {**terms, "motion": MOTION_WEIGHT * entropy / mean_count(weights.sum()), "cue": CUE_WEIGHT * cue}


def _cue_entropy(logits: Tensor, batch: Batch, weights: Tensor) -> Tensor:
    """Binary cross-entropy of cue logits [P, T', h, w], every thing weighing as in `motion_labels`, [B*T, h*w]."""
    assert batch.targets is not None
    cells = weights.unflatten(0, (len(batch.clips.pixels), -1))  # [B, T, A]
    if batch.clips.target_frames is not None:
        cells = cells[torch.arange(len(cells), device=cells.device)[:, None], batch.clips.target_frames]
    cells = cells[batch.clip_of_phrase].view(logits.shape)
    meant = (functional.avg_pool2d(batch.targets.masks.float(), STRIDE) > COVERED).float()
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), meant, reduction="none")
    return (entropy * cells).sum() / mean_count(cells.sum())


def motion_labels(targets: Targets, config: ScoutConfig) -> tuple[Tensor, Tensor]:
    """Motion class (0 = background) and weight of the cells of all frames, both [B*T, h*w]."""
    if targets.things is None:
        raise InvalidInput("the motion of cells needs a data set that names its things; use scenes")
    labels = [_labels_of_frame(ids, clip, config) for clip in targets.things for ids in clip.ids]
    motions, weights = (torch.stack(column) for column in zip(*labels, strict=True))
    return motions, weights


def _labels_of_frame(ids: Tensor, clip: Things, config: ScoutConfig) -> tuple[Tensor, Tensor]:
    if clip.motions is None:
        raise InvalidInput("the motion of cells needs a data set that tells how its things move; use scenes")
    if len(clip.motions) and int(clip.motions.max()) >= config.num_motions:
        raise InvalidInput(
            f"the data set names more motions than scout's head has ({config.num_motions}); raise num_motions"
        )
    owner, weights = owners(ids, len(clip.motions))
    return torch.cat((clip.motions.new_zeros(1), clip.motions + 1))[owner], weights
