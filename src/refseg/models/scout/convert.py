"""Scout's weights are born under our names: conversion keeps every name and leaves strange ones over."""

from __future__ import annotations

from refseg.models.base import ModelConfig, StateDict
from refseg.models.renaming import ConversionReport, Rename, apply

PARTS = r"(?:stem|motion|cue|detail|stages|rows|columns|fusions|text|cells|pyramid|decoder|naming)\..+"


def convert(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """`state` as it is, and what was kept; names of other models are left over in the report."""
    return apply(state, (Rename(f"({PARTS})", r"\1"),))
