"""Scout's weights are born under our names; conversion checks that and changes nothing."""

from __future__ import annotations

from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import Rename, Report, apply

from .config import ScoutConfig

PARTS = ("stem", "detail", "stages", "fusions", "text", "cells", "pyramid", "decoder", "naming", "rows", "columns")


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, Report]:
    """`state` as it is; names that belong to none of scout's parts are left over."""
    assert isinstance(config, ScoutConfig)
    return apply(state, [Rename(rf"({'|'.join(PARTS)})\.(.*)", r"\1.\2")])
