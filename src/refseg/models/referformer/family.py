"""ReferFormer as one value."""

from __future__ import annotations

from pathlib import Path

from refseg.metrics import protocols
from refseg.models.family import Family, ParamRule
from refseg.models.referformer.config import VARIANTS, ReferFormerLossConfig
from refseg.models.referformer.convert import convert
from refseg.models.referformer.loss import ReferFormerCriterion
from refseg.models.referformer.model import ReferFormer
from refseg.models.referformer.pretrained_parts import start_backbone, start_pooler, start_text

FAMILY = Family(
    name="referformer",
    title="ReferFormer (CVPR 2022): clips and images, language as queries",
    model=ReferFormer,
    criterion=ReferFormerCriterion,
    variants=VARIANTS,
    loss=ReferFormerLossConfig(),
    convert=convert,
    starts={"backbone": start_backbone, "text": start_text, "pooler": start_pooler},
    protocols={
        "ref-youtube-vos": protocols.REF_YOUTUBE_VOS,
        "ref-davis17": protocols.REF_DAVIS,
        "a2d": protocols.A2D,
        "jhmdb": protocols.JHMDB,
        "refcoco": protocols.REFERFORMER_MASKS,
        "refcoco+": protocols.REFERFORMER_MASKS,
        "refcocog": protocols.REFERFORMER_MASKS,
    },
    cards=Path(__file__).parent / "checkpoints.toml",
    # Scales of the published learning rate of 1e-4; what stays frozen depends on the backbone and is set in model.py.
    param_rules=(
        ParamRule(r"^backbone\.", lr_scale=0.5),
        ParamRule(r"^text_tower\.", lr_scale=0.1),
        ParamRule(r"reference_points|sampling_offsets", lr_scale=1.0),
    ),
)
