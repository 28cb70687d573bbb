"""LGFormer as one value."""

from __future__ import annotations

from pathlib import Path

from refseg.metrics.protocols import LGFORMER
from refseg.models.family import Family, ParamRule
from refseg.models.lgformer.config import VARIANTS, LGFormerLossConfig
from refseg.models.lgformer.convert import convert
from refseg.models.lgformer.loss import LGFormerCriterion
from refseg.models.lgformer.model import LGFormer
from refseg.models.lgformer.pretrained_parts import start_backbone, start_text

FAMILY = Family(
    name="lgformer",
    title="LGFormer (2023): images, words at every stage, the phrase generates the mask",
    model=LGFormer,
    criterion=LGFormerCriterion,
    variants=VARIANTS,
    loss=LGFormerLossConfig(),
    convert=convert,
    starts={"backbone": start_backbone, "text": start_text},
    cards=Path(__file__).parent / "checkpoints.toml",
    param_rules=(
        # Published behaviour: BERT's embeddings are in no group of the optimiser.
        ParamRule(r"^text_tower\.embeddings\.", trained=False),
        # Of the backbone alone, norms and position tables do not decay; elsewhere norms do, with decay_vectors.
        ParamRule(r"^backbone\..*(norm|relative_position_bias_table)", weight_decay=0.0),
    ),
    protocols=dict.fromkeys(("refcoco", "refcoco+", "refcocog", "refclef"), LGFORMER),
)
