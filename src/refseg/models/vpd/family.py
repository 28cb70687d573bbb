"""VPD as one value."""

from __future__ import annotations

from pathlib import Path

from refseg.metrics.protocols import VPD as PUBLISHED
from refseg.models.family import CompanionWeights, Family, ParamRule
from refseg.models.vpd.config import VARIANTS, VPDLossConfig
from refseg.models.vpd.convert import convert
from refseg.models.vpd.loss import VPDCriterion
from refseg.models.vpd.model import VPD, first_values

FAMILY = Family(
    name="vpd",
    title="VPD (ICCV 2023): images, seen through Stable Diffusion's UNet",
    model=VPD,
    criterion=VPDCriterion,
    variants=VARIANTS,
    loss=VPDLossConfig(),
    convert=convert,
    cards=Path(__file__).parent / "checkpoints.toml",
    companions=(
        CompanionWeights(
            "the text tower CLIP ViT-L/14", r"^text_tower\.", hub="openai/clip-vit-large-patch14"
        ),
    ),
    starts={"stable-diffusion": convert},
    first_values=first_values,
    protocols=dict.fromkeys(("refcoco", "refcoco+", "refcocog"), PUBLISHED),
    # Published behaviour: only the norms of attention blocks go without decay; those of residual blocks, the head's and
    # all biases decay (recipes say decay_vectors). The UNet learns as fast as the head: the slower rate that the
    # published script notes for it is never read.
    param_rules=(
        ParamRule(r"^(vae|text_tower)\.", trained=False),
        ParamRule(r"^unet\..*attentions\.\d+\.(transformer_blocks\.0\.)?norm\d?\.", weight_decay=0.0),
    ),
)
