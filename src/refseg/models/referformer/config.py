"""The numbers of ReferFormer.

Source: "Language as Queries for Referring Video Object Segmentation" (Wu et al., CVPR 2022, arXiv 2201.00487) and the
options of its published code, https://github.com/wjn922/ReferFormer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from refseg.encoders.swin import SWIN_BASE, SWIN_LARGE, SWIN_SMALL, SWIN_TINY, SwinSpec
from refseg.encoders.text import ROBERTA_BASE, TextSpec
from refseg.encoders.tokenizers.tokens import BYTES, BYTES_VOCABULARY, SPECIALS, WORDS
from refseg.encoders.video_swin import VIDEO_SWIN_B, VIDEO_SWIN_S, VIDEO_SWIN_T, VideoSwinSpec
from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig

VIDEO_FRAMES = FrameSpec(
    fit="shortest", size=360
)  # inference on Ref-YouTube-VOS and Ref-DAVIS17: no padding at all
DATASET_FRAMES = FrameSpec(
    fit="shortest", size=360, longest=640, divisor=32
)  # RefCOCO, A2D, JHMDB, and training

Protocol = Literal["video", "image"]
"""In which order masks come back to the source; see finish.py."""

Detail = Literal["chosen", "candidates", "layers"]
"""How much `segment` says outside training: the chosen candidate, all of the last layer, all of every layer."""


@dataclass(frozen=True)
class ResNetSpec:
    """The numbers of a ResNet backbone."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_width: int = 64
    bottleneck_width: int = 64
    stage_width: int = 256
    is_dilated: bool = False  # the last stage keeps stride 16; no published weights do


RESNET50 = ResNetSpec()
RESNET101 = ResNetSpec(blocks=(3, 4, 23, 3))

BackboneSpec = ResNetSpec | SwinSpec | VideoSwinSpec


@dataclass(frozen=True)
class ReferFormerConfig(ModelConfig):
    """Everything that fixes the computation; defaults are the published ones."""

    frame: FrameSpec = VIDEO_FRAMES
    backbone: BackboneSpec = RESNET50
    text: TextSpec = ROBERTA_BASE
    trains_text: bool = False  # only image pre-training does
    num_frames: int = 5  # of a training clip; any number works
    dim: int = 256
    num_heads: int = 8  # of the deformable transformer; fusion and pixel decoder always have 8
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    num_encoder_points: int = 4
    num_decoder_points: int = 4
    hidden_dim: int = 2048
    dropout: float = 0.1
    num_queries: int = 5
    num_classes: int = 1  # 1 is "binary"; 65, 78 or 91 are the categories of YouTube-VOS, DAVIS and COCO
    refines_boxes: bool = True
    mask_dim: int = 256
    num_dynamic_layers: int = 3
    dynamic_channels: int = 8
    has_relative_coordinates: bool = True
    supervises_every_layer: bool = True  # in training; the last decoder layer alone otherwise
    protocol: Protocol = "video"
    detail: Detail = "chosen"
    vocabulary: tuple[str, ...] = ()  # of a text tower that reads words; other towers have a tokenizer

    def for_words(self, words: Sequence[str]) -> Self:
        """The configuration for a world of `words`, where the text tower reads words and not pieces of them."""
        if self.text.tokenizer != WORDS:
            return self
        known = tuple(dict.fromkeys(word.lower() for word in words if word.isalnum()))
        return replace(self, vocabulary=known, text=replace(self.text, vocabulary=len(SPECIALS) + len(known)))


@dataclass(frozen=True)
class ReferFormerLossConfig(LossConfig):
    """Weights of the loss terms and of the matching costs, which are equal by name."""

    class_weight: float = 2.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    mask_weight: float = 2.0
    dice_weight: float = 5.0
    class_cost: float = 2.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    mask_cost: float = 2.0
    dice_cost: float = 5.0
    focal_alpha: float = 0.25  # of the class term alone; mask term and matching keep 0.25


_BACKBONES: dict[str, BackboneSpec] = {
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "swin-t": SWIN_TINY,
    "swin-s": SWIN_SMALL,
    "swin-b": SWIN_BASE,
    "swin-l": SWIN_LARGE,
    "video-swin-t": VIDEO_SWIN_T,
    "video-swin-s": VIDEO_SWIN_S,
    "video-swin-b": VIDEO_SWIN_B,
}
_VIDEO = {name: ReferFormerConfig(backbone=backbone) for name, backbone in _BACKBONES.items()}
_IMAGE = {
    f"{name}-image": replace(
        config, frame=DATASET_FRAMES, protocol="image", detail="candidates", num_frames=1, trains_text=True
    )
    for name, config in _VIDEO.items()
}
_ONE_FRAME = {
    f"{name}-a2d": replace(config, frame=DATASET_FRAMES, protocol="image", detail="candidates")
    for name, config in _VIDEO.items()
    if name.startswith("video")
}

_DEBUG = ReferFormerConfig(
    frame=replace(VIDEO_FRAMES, size=64),
    backbone=ResNetSpec(blocks=(1, 1, 1, 1), stem_width=8, bottleneck_width=4, stage_width=16),
    text=TextSpec(
        tokenizer=BYTES,
        vocabulary=BYTES_VOCABULARY,
        width=16,
        num_layers=1,
        num_heads=2,
        hidden_dim=32,
        num_positions=128,
    ),
    trains_text=True,
    num_frames=2,
    dim=64,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    num_encoder_points=2,
    num_decoder_points=2,
    hidden_dim=48,
    mask_dim=16,
    dynamic_channels=4,
)

# Small enough to learn drawn clips from nothing on a CPU; not published. Windows divide the maps of a 64 pixel canvas.
_MINI = ReferFormerConfig(
    frame=replace(DATASET_FRAMES, size=64, longest=None),
    backbone=VideoSwinSpec(32, (2, 2, 2, 2), (4, 4, 8, 8), window=(8, 4, 4), drop_path=0.0),
    text=TextSpec(
        tokenizer=WORDS,
        vocabulary=len(SPECIALS),
        width=64,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        num_positions=34,
        dropout=0.0,
    ),
    trains_text=True,
    num_frames=4,
    dim=64,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    num_encoder_points=2,
    num_decoder_points=4,
    hidden_dim=128,
    dropout=0.0,
    num_queries=1,
    mask_dim=16,
)

VARIANTS: dict[str, ReferFormerConfig] = {
    **_VIDEO,
    **_IMAGE,  # image pre-training, and RefCOCO/+/g
    **_ONE_FRAME,  # A2D and JHMDB: a clip is looked at, one frame of it is segmented
    "video-swin-t-a2d-scratch": replace(_ONE_FRAME["video-swin-t-a2d"], num_frames=6, dropout=0.0),
    "video-swin-mini": _MINI,
    "debug": _DEBUG,
    "debug-swin": replace(_DEBUG, backbone=SwinSpec(16, (1, 1, 2, 1), (1, 2, 4, 4), window=3, drop_path=0.1)),
    "debug-video": replace(
        _DEBUG, backbone=VideoSwinSpec(16, (1, 1, 2, 1), (1, 2, 4, 4), window=(2, 3, 3), drop_path=0.1)
    ),
}
