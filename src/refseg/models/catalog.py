"""The families by name; each is imported when it is asked for."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from refseg.errors import UnknownName

if TYPE_CHECKING:
    from refseg.models.base import ModelConfig, ReferringModel
    from refseg.models.family import Family

FAMILIES = {
    "scout": "refseg.models.scout.family",
    "referformer": "refseg.models.referformer.family",
    "lgformer": "refseg.models.lgformer.family",
    "vlt": "refseg.models.vlt.family",
    "vlformer": "refseg.models.vlformer.family",
    "vpd": "refseg.models.vpd.family",
}


def family(name: str) -> Family:
    """The family called `name`.

    Raises:
        UnknownName: if there is none.
    """
    if name not in FAMILIES:
        raise UnknownName("family", name, FAMILIES)
    found: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return found


def variant(family_name: str, variant_name: str) -> ModelConfig:
    """The configuration of one variant of a family.

    Raises:
        UnknownName: if the family or the variant does not exist.
    """
    variants = family(family_name).variants
    if variant_name not in variants:
        raise UnknownName(f"variant of {family_name}", variant_name, variants)
    return variants[variant_name]


def build(family_name: str, config: str | ModelConfig, **changes: Any) -> ReferringModel:
    """A freshly initialised model of a variant (by name) or configuration; reads no file and no network.

    Initial values come from torch's global generator: seed it for repeatable ones.
    """
    settings = variant(family_name, config) if isinstance(config, str) else config
    return family(family_name).model(dataclasses.replace(settings, **changes))
