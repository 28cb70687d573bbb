"""Scout, as the rest of the toolkit sees it."""

from __future__ import annotations

from pathlib import Path

from refseg.models.family import Family, ParamRule
from refseg.models.scout.config import VARIANTS, ScoutLoss
from refseg.models.scout.convert import convert
from refseg.models.scout.loss import ScoutCriterion
from refseg.models.scout.model import Scout
from refseg.models.scout.objectives import naming_loss, phrases_and_motion

FAMILY = Family(
    name="scout",
    title="Scout: this project's own compact model, trained on drawn scenes",
    model=Scout,
    criterion=ScoutCriterion,
    variants=VARIANTS,
    loss=ScoutLoss(),
    convert=convert,
    cards=Path(__file__).with_name("checkpoints.toml"),
    # Vectors (norms, biases, positions) and word embeddings are not drawn to zero. What clips teach is learnt last, on
    # top of finished weights, and learns faster than they change.
    param_rules=(
        ParamRule(
            r"^(motion|cue|naming\.motions)\..*(norm|bias|sharpness|gain)", lr_scale=5.0, weight_decay=0.0
        ),
        ParamRule(r"^(motion|cue|naming\.motions)\.", lr_scale=5.0),
        ParamRule(r"(norm|bias|positions|text\.words)", weight_decay=0.0),
    ),
    objectives={"naming": naming_loss, "phrases_and_motion": phrases_and_motion},
)
