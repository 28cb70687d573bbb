"""The numbers of VLT.

Source: "Vision-Language Transformer and Query Generation for Referring Segmentation" (Ding et al., ICCV 2021, arXiv
2108.05565) and the configurations of its published code, https://github.com/henghuiding/Vision-Language-Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from refseg.encoders.word_vectors import LETTERS
from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig

LETTERBOX = FrameSpec(
    fit="letterbox", size=416, filter="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fill=0.5
)  # values in [0, 1] on a grey canvas, without mean and deviation

Frozen = Literal["none", "backbone", "all but last"]
"""What does not learn: nothing; convolutions 1 to 56; all but the last convolution and the norm before it."""


@dataclass(frozen=True)
class VltConfig(ModelConfig):
    """Everything that fixes the computation; defaults are the published ones."""

    frame: FrameSpec = LETTERBOX
    threshold: float = 0.35
    stride: int = 2  # canvas pixels per cell of the mask logits: 2, 4, 8 or 16
    backbone_width: int = 32  # channels of the first convolution; all of the backbone's follow
    vectors: str = "glove.840B.300d"  # the table of word vectors, by name; see encoders/word_vectors.py
    max_words: int = 15  # of a phrase; padding counts, so this is part of the computation
    word_dim: int = 300
    gru_dim: int = 1024
    is_bidirectional: bool = True
    dim: int = 256  # of the transformer and of the mask head
    num_heads: int = 8
    num_encoder_layers: int = 2
    num_decoder_layers: int = 2
    num_queries: int = 16
    input_dropout: float = 0.1  # on word vectors before the GRU
    dropout: float = 0.1  # on word attention, and on what each transformer block adds
    frozen: Frozen = "backbone"

    @property
    def fused_dim(self) -> int:
        """Channels of the coarsest backbone map, which the sentence is multiplied into."""
        return 32 * self.backbone_width

    @property
    def grid(self) -> int:
        """Cells along a side of the map that queries are made of; weights depend on it."""
        return self.frame.size // 16


@dataclass(frozen=True)
class VltLossConfig(LossConfig):
    """The mask term is summed over pixels; the penalty is on squared kernels of all convolutions, without a half."""

    kernel_penalty: float = 5e-4


_REFCOCO = VltConfig()

VARIANTS: dict[str, VltConfig] = {
    "refcoco": _REFCOCO,
    "refcoco+": _REFCOCO,
    "refcocog": replace(_REFCOCO, max_words=20),
    "queries32": replace(_REFCOCO, num_queries=32),
    "debug": VltConfig(
        frame=replace(LETTERBOX, size=64),
        backbone_width=2,
        vectors=LETTERS,
        max_words=8,
        word_dim=12,
        gru_dim=24,
        dim=32,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_queries=4,
    ),
}
