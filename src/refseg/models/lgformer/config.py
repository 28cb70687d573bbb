"""The numbers of LGFormer.

Source: "Linguistic Query-Guided Mask Generation for Referring Image Segmentation" (Wei et al., 2023, arXiv 2301.06429)
and the options of its published code, https://github.com/ZhichaoWei/LGFormer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from refseg.encoders.swin import SWIN_BASE, SWIN_LARGE, SWIN_SMALL, SWIN_TINY, SwinSpec
from refseg.encoders.text import BERT_BASE, TextSpec
from refseg.encoders.tokenizers.wordpiece import LETTERS, LETTERS_VOCABULARY
from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig

SQUARE_FRAMES = FrameSpec(fit="stretch", size=480)  # training and every published number
DEMO_FRAMES = FrameSpec(fit="shortest", size=480)  # what the published demo script means to do
BASE_WINDOW_12 = replace(SWIN_BASE, window=12, drop_path=0.3)

Detail = Literal["last", "layers"]
"""How much `segment` says outside training: the last prediction, or those before every decoder layer too."""


@dataclass(frozen=True)
class LGFormerConfig(ModelConfig):
    """Everything that fixes the computation; defaults are the published ones."""

    frame: FrameSpec = SQUARE_FRAMES
    backbone: SwinSpec = BASE_WINDOW_12
    fusion_heads: tuple[int, ...] = (1, 1, 1, 1)  # by stage; no file tells them, and published ones have 1
    fusion_dropout: float = 0.0
    text: TextSpec = BERT_BASE
    max_tokens: int = 20  # of every phrase: longer ones are cut, shorter ones padded
    dim: int = 256  # of pixels
    num_heads: int = 8  # of the three kinds of attention outside backbone and text tower
    num_encoder_layers: int = 6
    encoder_hidden_dim: int = 1024
    text_hidden_dim: int = 2048  # of the feed-forward networks after text attention
    num_decoder_layers: int = 6
    decoder_hidden_dim: int = 2048
    detail: Detail = "last"
    enlarges_nearest: bool = False  # logits to the source: nearest, as the published demo; else bilinear


@dataclass(frozen=True)
class LGFormerLossConfig(LossConfig):
    """The one term of the loss."""

    positive_weight: float = 1.1  # of pixels of the object


# By window, as trained on ImageNet: 7 with 224 pixels, 12 with 384. Drop path is published as 0.3 for every size.
_SIZES = {"base": SWIN_BASE, "tiny": SWIN_TINY, "small": SWIN_SMALL, "large": SWIN_LARGE}


VARIANTS: dict[str, LGFormerConfig] = {
    f"{size}-window{window}": LGFormerConfig(
        backbone=replace(_SIZES[size], window=window, drop_path=BASE_WINDOW_12.drop_path)
    )
    for size in _SIZES
    for window in (12, 7)
} | {
    "base-window12-demo": LGFormerConfig(frame=DEMO_FRAMES, enlarges_nearest=True),
    "debug": LGFormerConfig(
        frame=replace(SQUARE_FRAMES, size=64),
        backbone=SwinSpec(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window=7, drop_path=0.1),
        fusion_heads=(1, 2, 1, 1),
        text=TextSpec(
            tower="bert",
            tokenizer=LETTERS,
            vocabulary=LETTERS_VOCABULARY,
            width=16,
            num_layers=1,
            num_heads=2,
            hidden_dim=32,
            num_positions=40,
            num_token_types=2,
            norm_eps=1e-12,
            pad_id=0,
        ),
        max_tokens=30,
        dim=32,
        num_heads=4,
        num_encoder_layers=1,
        encoder_hidden_dim=24,
        text_hidden_dim=24,
        num_decoder_layers=3,
        decoder_hidden_dim=24,
    ),
}
