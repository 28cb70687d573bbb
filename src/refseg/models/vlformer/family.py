"""VLFormer as one value."""

from __future__ import annotations

from pathlib import Path

from refseg.metrics.protocols import VLFORMER
from refseg.models.family import CompanionWeights, Family, ParamRule
from refseg.models.vlformer.config import VARIANTS, VLFormerLossConfig
from refseg.models.vlformer.convert import TEXT, convert, first_values
from refseg.models.vlformer.loss import VLFormerCriterion
from refseg.models.vlformer.model import VLFormer

FAMILY = Family(
    name="vlformer",
    title="VLFormer (2022): images and short clips, masked attention to cells and words",
    model=VLFormer,
    criterion=VLFormerCriterion,
    variants=VARIANTS,
    loss=VLFormerLossConfig(),
    convert=convert,
    companions=(CompanionWeights("CLIP's text tower", TEXT, "openai/clip-vit-base-patch16"),),
    starts={"mask2former": convert, "backbone": convert},
    first_values=first_values,
    protocols={"refcoco": VLFORMER, "refcoco+": VLFORMER, "refcocog": VLFORMER},
    cards=Path(__file__).parent / "checkpoints.toml",
    # Scales of the published learning rate of 1e-4. Norms and embeddings do not decay; all else does, biases and the
    # bare level embedding of the encoder included.
    param_rules=(
        ParamRule(r"^text_tower\.", trained=False),
        ParamRule(r"^backbone\.", lr_scale=0.1),
        ParamRule(r"norm\.(weight|bias)$", weight_decay=0.0),
        ParamRule(r"^decoder\.(query_feat|query_embed|level_embed)\.", weight_decay=0.0),
    ),
)
