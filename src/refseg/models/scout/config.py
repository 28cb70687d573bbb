"""The sizes of scout, and its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig


@dataclass(frozen=True)
class ScoutConfig(ModelConfig):
    """Everything that fixes scout's computation."""

    vocabulary: tuple[str, ...] = ()  # known words; filled by `for_words`
    max_tokens: int = 20
    stem_channels: int = 32
    stage_channels: tuple[int, int, int, int] = (64, 96, 160, 256)  # strides 4, 8, 16, 32
    blocks_per_stage: int = 2
    fusion_dims: tuple[int, int, int, int] = (64, 96, 128, 128)  # width of a cell's look at the words
    head_dim: int = 32  # of every attention; widths are multiples of it
    hidden_dim: int = 128  # words, coarse cells and queries
    feed_forward_dim: int = 512
    text_layers: int = 2
    cell_layers: int = 2
    query_layers: int = 2
    mask_channels: int = 64
    num_nouns: int = 192  # most kinds of things and of colours that the naming objective can tell apart
    num_colours: int = 16
    motion_dim: int = 64  # width of what cells conclude from neighbouring frames
    motion_reach: int = 4  # cells of stride 8 that a thing may travel between matched frames
    num_motions: int = 12  # most kinds of motion that the objective of clips can tell apart
    existence_threshold: float = 0.5  # below it the answer is "nothing here answers to the phrase"

    def for_words(self, words: Sequence[str]) -> Self:
        """The configuration for a world of `words`; marks such as <pad> are no words."""
        return replace(self, vocabulary=tuple(word for word in words if word.isalnum()))


@dataclass(frozen=True)
class ScoutLoss(LossConfig):
    """Weights of the loss terms, for means over phrases."""

    mask_weight: float = 6.0
    focal_gamma: float = 1.0
    dice_weight: float = 2.0
    box_weight: float = 3.0
    giou_weight: float = 1.0
    existence_weight: float = 0.5
    earlier_weight: float = 0.5  # of each earlier decoder layer, against the last


_FRAME = FrameSpec(fit="letterbox", size=128)
_DEBUG_WORDS = """
    left right top bottom middle small large big red green blue yellow white black dog cat man woman person car ball
    star stars circle circles square squares heart thing object both two all of in on and with moving to biggest
    smallest near corner walking striped
"""

VARIANTS: dict[str, ScoutConfig] = {
    "base": ScoutConfig(frame=_FRAME),
    "debug": ScoutConfig(
        frame=replace(_FRAME, size=64),
        vocabulary=tuple(_DEBUG_WORDS.split()),
        stem_channels=8,
        stage_channels=(8, 8, 16, 16),
        blocks_per_stage=1,
        fusion_dims=(8, 8, 16, 16),
        head_dim=8,
        hidden_dim=16,
        feed_forward_dim=32,
        text_layers=1,
        cell_layers=2,
        query_layers=2,
        mask_channels=8,
        num_nouns=12,
        num_colours=4,
        motion_dim=16,
        motion_reach=2,
        num_motions=10,
    ),
}
