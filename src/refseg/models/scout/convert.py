"""Scout's weights are born under our names; conversion checks that and changes nothing."""

from __future__ import annotations

from refseg.errors import CheckpointMismatch
from refseg.models.base import ModelConfig, StateDict

from .config import ScoutConfig


def convert(state: StateDict, config: ModelConfig) -> StateDict:
    """`state` as it is.

    Raises:
        CheckpointMismatch: if a name belongs to none of scout's parts.
    """
    assert isinstance(config, ScoutConfig)
    parts = ("stem.", "detail.", "stages.", "fusions.", "text.", "cells.", "pyramid.", "decoder.", "naming.")
    strange = [name for name in state if not name.startswith(parts)]
    if strange:
        raise CheckpointMismatch("these are not weights of scout", unexpected=strange)
    return dict(state)
