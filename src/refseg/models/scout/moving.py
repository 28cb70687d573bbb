"""The objective of clips: the loss of phrases, and beside it how the thing in each cell moves.

Motion is a handful of kinds, and every thing of a clip shows one; phrases alone would teach it one thing at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refseg.distributed import mean_count
from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel
from refseg.structures import Batch, Targets, Things

from .config import ScoutConfig, ScoutLoss
from .loss import ScoutCriterion
from .naming import owners, weighted_entropy

if TYPE_CHECKING:
    from .model import Scout

MOTION_WEIGHT = 0.5


def phrases_and_motion(model: ReferringModel, batch: Batch) -> dict[str, Tensor]:
    """The terms of scout's criterion, and "motion": the cross-entropy of motions over the cells of every frame.

    A batch of pictures has no motion, and the term is zero.

    Raises:
        InvalidInput: if the data carry no masks, or the data of clips do not tell how things move.
    """
    if batch.targets is None:
        raise InvalidInput("the data set carries no masks to learn from")
    scout: Scout = model  # type: ignore[assignment]
    visual, concluded = scout.see(batch.clips)
    tokens = scout.tokenize(batch.phrases).to(batch.clips.pixels.device)
    output = scout.segment(visual.rows(batch.clip_of_phrase), scout.encode_text(tokens))
    with torch.autocast(batch.clips.pixels.device.type, enabled=False):
        terms = ScoutCriterion(ScoutLoss())(output.to(dtype=torch.float32), batch.targets)
    if concluded is None:
        return {**terms, "motion": output.mask_logits.new_zeros(())}
    labels, weights = motion_labels(batch.targets, scout.config)
    entropy = weighted_entropy(scout.naming.motions(concluded), labels, weights)
    return {**terms, "motion": MOTION_WEIGHT * entropy / mean_count(weights.sum())}


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
