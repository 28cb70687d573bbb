"""The numbers of VPD for referring image segmentation.

Source: "Unleashing Text-to-Image Diffusion Models for Visual Perception" (Zhao et al., ICCV 2023, arXiv 2303.02153), the
options of its published code, https://github.com/wl-zhao/VPD, folder `refer`, and the configuration of Stable Diffusion 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from refseg.encoders.clip_text import CLIP_LARGE_TEXT, ClipTextSpec
from refseg.encoders.tokenizers.clip import CLIP_BYTES_VOCABULARY
from refseg.encoders.tokenizers.tokens import BYTES
from refseg.framing import FrameSpec
from refseg.models.base import LossConfig, ModelConfig

STRIDE = 64  # canvas pixels for one cell of the coarsest feature map; sides of a canvas are multiples of it

_HALF = (0.5, 0.5, 0.5)  # mean and deviation: pixels become -1 to 1
SQUARE_FRAMES = FrameSpec(fit="stretch", size=512, mean=_HALF, std=_HALF)
SHAPED_FRAMES = FrameSpec(
    fit="shortest", size=512, longest=1024, divisor=STRIDE, mean=_HALF, std=_HALF
)  # not published: pictures keep their shape, padded with grey up to the next multiple


@dataclass(frozen=True)
class VPDConfig(ModelConfig):
    """Everything that fixes the computation; defaults are the published ones."""

    frame: FrameSpec = SQUARE_FRAMES
    text: ClipTextSpec = CLIP_LARGE_TEXT
    num_tokens: int = 40  # of every phrase, padding included: each position gives an attention map
    unet_width: int = 320  # channels of the finest level; the others have twice, four and four times as many
    num_heads: int = 8  # of every attention of the UNet
    vae_width: int = 128  # likewise


@dataclass(frozen=True)
class VPDLossConfig(LossConfig):
    """Weights of the two classes in the cross-entropy."""

    background_weight: float = 0.9
    object_weight: float = 1.1


_REFCOCO = VPDConfig()
_REFCOCOG = replace(_REFCOCO, num_tokens=77)

VARIANTS: dict[str, VPDConfig] = {
    "refcoco": _REFCOCO,  # also RefCOCO+
    "refcocog": _REFCOCOG,
    "refcoco-shaped": replace(_REFCOCO, frame=SHAPED_FRAMES),
    "refcocog-shaped": replace(_REFCOCOG, frame=SHAPED_FRAMES),
    "debug": VPDConfig(
        frame=replace(SQUARE_FRAMES, size=64),
        text=ClipTextSpec(
            tokenizer=BYTES,
            vocabulary=CLIP_BYTES_VOCABULARY,
            width=32,
            num_layers=1,
            num_heads=2,
            hidden_dim=64,
        ),
        num_tokens=24,
        unet_width=32,
        num_heads=2,
        vae_width=32,
    ),
}
