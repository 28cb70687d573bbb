"""The naming objective: say what stands in each cell, without any phrase.

It gives the backbone what published systems take from ImageNet weights: eyes for the things and colours of its world.
Every object weighs the same whatever its area; background cells weigh little.

The objective of clips: the loss of phrases, and beside it how the thing in each cell moves.

Motion is a handful of kinds, and every thing of a clip shows one; phrases alone would teach it one thing at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.distributed import mean_count
from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel
from refseg.models.scout.config import ScoutConfig, ScoutLoss
from refseg.models.scout.loss import ScoutCriterion
from refseg.models.scout.position import places
from refseg.structures import Batch, Targets, Things

if TYPE_CHECKING:
    from refseg.models.scout.model import Scout


STRIDE = 8


COVERED = 0.35  # a cell shows the object that covers more than this of it


EMPTY = 0.02  # and background when all objects together cover less than this; between them it is not asked


BACKGROUND_WEIGHT = 0.15  # all background cells of a picture together, against one object


COLOUR_WEIGHT = 0.5


class NamingHead(nn.Module):
    """Noun and colour of every cell of stride 8; class 0 is the background, colour 1 is "has no colour word"."""

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__()
        channels = config.stage_channels[1]
        self.mix = nn.Linear(channels, 2 * channels)
        self.nouns = nn.Linear(2 * channels, config.num_nouns + 1)
        self.colours = nn.Linear(2 * channels, config.num_colours + 2)
        self.motions = nn.Linear(config.motion_dim, config.num_motions + 1)

    def forward(self, map8: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, C, h, w] to noun logits [N, h*w, num_nouns+1] and colour logits [N, h*w, num_colours+2]."""
        mixed = functional.gelu(self.mix(map8.permute(0, 2, 3, 1).flatten(1, 2)))
        return self.nouns(mixed), self.colours(mixed)


def naming_loss(model: ReferringModel, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of nouns and colours over the cells of every frame.

    Raises:
        InvalidInput: if the data set does not tell what stands where, or tells of more kinds than the head has.
    """
    things = None if batch.targets is None else batch.targets.things
    if things is None:
        raise InvalidInput("the naming objective needs a data set that names its things; use scenes")
    scout: Scout = model  # type: ignore[assignment]
    nouns, colours, weights = cell_labels(things, scout.config)
    noun_logits, colour_logits = word_free_names(scout, batch)
    total = mean_count(weights.sum())
    return {
        "noun": weighted_entropy(noun_logits, nouns, weights) / total,
        "colour": COLOUR_WEIGHT * weighted_entropy(colour_logits, colours, weights) / total,
    }


def word_free_names(scout: Scout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Noun and colour logits of every cell of B*T frames, by the passes that need no words."""
    visual = scout.encode_visual(batch.clips)
    num_frames = visual.maps[0].shape[1]
    stage1 = visual.maps[1].flatten(0, 1)
    where = places(visual.valid.repeat_interleave(num_frames, 0))
    maps = scout.climb(stage1, where, None)
    memory = scout.cells((maps[2], maps[3]), where[2:], None)
    return scout.naming(scout.pyramid.stride8(memory, maps[1], where))


def cell_labels(things: Sequence[Things], config: ScoutConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Noun and colour class [N, h*w] and weight [N, h*w] of the cells of all frames; weight 0 is "not asked"."""
    labels = [_labels_of_frame(ids, clip, config) for clip in things for ids in clip.ids]
    nouns, colours, weights = (torch.stack(column) for column in zip(*labels, strict=True))
    return nouns, colours, weights


def _labels_of_frame(ids: Tensor, clip: Things, config: ScoutConfig) -> tuple[Tensor, Tensor, Tensor]:
    _check_kinds(clip, config)
    owner, weights = owners(ids, len(clip.nouns))
    nouns = torch.cat((clip.nouns.new_zeros(1), clip.nouns + 1))
    colours = torch.cat((clip.colours.new_zeros(1), clip.colours + 2))
    return nouns[owner], colours[owner], weights


def owners(ids: Tensor, num_things: int) -> tuple[Tensor, Tensor]:
    """The thing that each cell of an id map [H, W] shows (0 = background), and its weight; 0 is "not asked"."""
    present = functional.one_hot(ids.long(), num_things + 1).permute(2, 0, 1).float()  # [1+N, H, W]
    cover = functional.avg_pool2d(present, STRIDE).flatten(1)  # [1+N, cells]
    most, thing = cover[1:].max(0) if num_things else (cover[0] * 0, cover[0].long() * 0)
    shown = most > COVERED
    empty = cover[0] > 1 - EMPTY
    owner = torch.where(shown, thing + 1, 0)
    counts = torch.bincount(owner[shown], minlength=num_things + 1).clamp(min=1).float()
    counts[0] = empty.sum().clamp(min=1) / BACKGROUND_WEIGHT
    weights = torch.where(shown | empty, 1 / counts[owner], 0.0)
    return owner, weights


def _check_kinds(clip: Things, config: ScoutConfig) -> None:
    if len(clip.nouns) and (
        int(clip.nouns.max()) >= config.num_nouns or int(clip.colours.max()) >= config.num_colours
    ):
        raise InvalidInput(
            f"the data set names more kinds of things than scout's naming head has ({config.num_nouns} nouns, "
            f"{config.num_colours} colours); raise num_nouns or num_colours"
        )


def weighted_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of logits [N, A, K] with labels [N, A], summed with weights [N, A]."""
    entropy = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (entropy * weights.flatten()).sum()


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
    labels = [_motions_of_frame(ids, clip, config) for clip in targets.things for ids in clip.ids]
    motions, weights = (torch.stack(column) for column in zip(*labels, strict=True))
    return motions, weights


def _motions_of_frame(ids: Tensor, clip: Things, config: ScoutConfig) -> tuple[Tensor, Tensor]:
    if clip.motions is None:
        raise InvalidInput("the motion of cells needs a data set that tells how its things move; use scenes")
    if len(clip.motions) and int(clip.motions.max()) >= config.num_motions:
        raise InvalidInput(
            f"the data set names more motions than scout's head has ({config.num_motions}); raise num_motions"
        )
    owner, weights = owners(ids, len(clip.motions))
    return torch.cat((clip.motions.new_zeros(1), clip.motions + 1))[owner], weights
