"""VLT as one value."""

from __future__ import annotations

from pathlib import Path

from refseg.metrics.protocols import VLT
from refseg.models.family import Family
from refseg.models.vlt.config import VARIANTS, VltLossConfig
from refseg.models.vlt.convert import convert, first_values
from refseg.models.vlt.loss import VltCriterion
from refseg.models.vlt.model import Vlt

FAMILY = Family(
    name="vlt",
    title="VLT (ICCV 2021): images, queries generated from picture and phrase",
    model=Vlt,
    criterion=VltCriterion,
    variants=VARIANTS,
    loss=VltLossConfig(),
    convert=convert,
    protocols={"refcoco": VLT, "refcoco+": VLT, "refcocog": VLT},
    cards=Path(__file__).parent / "checkpoints.toml",
    starts={"backbone": convert},
    first_values=first_values,
)
