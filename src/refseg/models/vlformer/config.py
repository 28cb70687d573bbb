"""The numbers of VLFormer.

Source: "VLFormer: Visual-Linguistic Transformer for Referring Image Segmentation" (Nguyen et al., 2022) and the
configurations of its published code, https://github.com/nero1342/VLFormer_RIS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refseg.encoders.clip_text import CLIP_BASE_TEXT, ClipTextSpec
from refseg.encoders.tokenizers.clip import CLIP_BYTES_VOCABULARY
from refseg.encoders.tokenizers.tokens import BYTES
from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig

FRAMES = FrameSpec(fit="shortest", size=480, longest=1333, divisor=32, rounding="half")

PaddedWords = Literal["raised", "excluded"]
"""What early fusion does in training with the padding behind shorter phrases of a batch: the scores of padding raised by
1, which is what the published weights were trained with, or padding excluded, which is what was meant."""

Detail = Literal["last", "layers"]
"""How much `segment` says outside training: the last prediction, or those before and after every layer."""


@dataclass(frozen=True)
class ResNetSpec:
    """The numbers of a ResNet backbone."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_width: int = 64
    bottleneck_width: int = 64
    stage_width: int = 256


RESNET50 = ResNetSpec()
RESNET101 = ResNetSpec(blocks=(3, 4, 23, 3))


@dataclass(frozen=True)
class VLFormerConfig(ModelConfig):
    """Everything that fixes the computation; defaults are the published ones."""

    frame: FrameSpec = FRAMES
    backbone: ResNetSpec = RESNET50
    text: ClipTextSpec = CLIP_BASE_TEXT
    dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    num_encoder_layers: int = 3
    encoder_hidden_dim: int = 1024
    num_decoder_layers: int = 6
    hidden_dim: int = 2048
    num_queries: int = 5
    mask_dim: int = 256
    padded_words: PaddedWords = "raised"
    detail: Detail = "last"


@dataclass(frozen=True)
class VLFormerLossConfig(LossConfig):
    """Weights of the loss terms, which are the matching costs too, and how many points stand for a mask."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    absent_weight: float = 0.1  # of "no object" in the class term
    num_points: int = 12544  # 112 x 112
    oversampling: float = 3.0  # candidates per point that is kept
    uncertain_share: float = 0.75  # of the points, those where the mask is least sure


VARIANTS: dict[str, VLFormerConfig] = {
    "resnet50": VLFormerConfig(),
    "resnet101": VLFormerConfig(backbone=RESNET101),
    "debug": VLFormerConfig(
        frame=FrameSpec(fit="shortest", size=64, longest=128, divisor=32, rounding="half"),
        backbone=ResNetSpec(blocks=(1, 1, 1, 1), stem_width=8, bottleneck_width=4, stage_width=16),
        text=ClipTextSpec(
            tokenizer=BYTES,
            vocabulary=CLIP_BYTES_VOCABULARY,
            width=16,
            num_layers=1,
            num_heads=2,
            hidden_dim=32,
            num_positions=256,
        ),
        dim=64,
        num_heads=4,
        num_points=2,
        num_encoder_layers=1,
        encoder_hidden_dim=48,
        num_decoder_layers=3,
        hidden_dim=48,
        mask_dim=16,
    ),
}
