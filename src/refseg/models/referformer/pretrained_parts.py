"""What training from nothing begins with: public files of the backbone, of the text tower, of its pooler.

The hub's RoBERTa has no pooler, though the phrase is the pooler's output and stays frozen with the tower; a published file of
this system has one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.encoders.swin import Swin, SwinSpec, classification_start
from refseg.encoders.video_swin import VideoSwin, VideoSwinSpec, pretrained
from refseg.errors import CheckpointMismatch
from refseg.models.base import ModelConfig, StateDict
from refseg.models.referformer.config import ReferFormerConfig
from refseg.models.referformer.convert import backbone_rules
from refseg.models.renaming import ConversionReport, Drop, Rename, apply

_OWN = "backbone."  # of our names
_CLASSIFIER = "the classifier of the file"


def start_backbone(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The backbone from ImageNet (ResNet, Swin) or Kinetics (Video Swin) weights, or from a published file of this system.

    Raises:
        CheckpointMismatch: if the file is of another network.
    """
    assert isinstance(config, ReferFormerConfig)
    if any(name.startswith("backbone.0.body.") for name in state):
        return _of_this_system(state, config)
    if isinstance(config.backbone, VideoSwinSpec):
        with torch.device("meta"):
            wanted = VideoSwin(config.backbone).state_dict()
        start = pretrained(state, wanted, config.backbone.window)
        return _prefixed(start.tensors, start.unused)
    if isinstance(config.backbone, SwinSpec):
        with torch.device("meta"):
            wanted = Swin(config.backbone).state_dict()
        found = classification_start(state, wanted)
        return _prefixed(found.tensors, found.unused)
    named = {f"backbone.0.body.{name}": value for name, value in state.items()}
    return _of_this_system(named, config)


def start_text(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The text tower from the hub's RoBERTa, which has no pooler, or from a published file of this system."""
    del config
    return apply(
        state,
        [
            Drop(r".*\.position_ids|.*\.token_type_ids", "a fixed range of numbers, computed when needed"),
            Drop(r"lm_head\..*", "the head of the language model"),
            Rename(r"(?:roberta|text_encoder)\.(.*)", r"text_tower.\1"),
            Rename(r"((?:embeddings|encoder|pooler)\..*)", r"text_tower.\1"),
            Drop(r".*", "not a part of the text tower"),
        ],
    )


def start_pooler(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The pooler of the text tower alone, from a published file of this system or an early RoBERTa."""
    converted, report = start_text(state, config)
    kept = {name: value for name, value in converted.items() if name.startswith("text_tower.pooler.")}
    if not kept:
        raise CheckpointMismatch(
            "the file holds no pooler", missing=["pooler.dense.weight", "pooler.dense.bias"]
        )
    report.renamed = {name: ours for name, ours in report.renamed.items() if ours in kept}
    return kept, report


def _of_this_system(state: StateDict, config: ReferFormerConfig) -> tuple[StateDict, ConversionReport]:
    converted, report = apply(
        state,
        [
            Drop(r".*\.num_batches_tracked", "batch counters, which frozen normalisation does not use"),
            Drop(r".*\.relative_position_index", "fixed indices, computed when needed"),
            Drop(r"backbone\.0\.body\.fc\..*", _CLASSIFIER),
            *backbone_rules(config),
            Drop(r"(?!backbone\.).*", "not a part of the backbone"),
        ],
    )
    if not converted:
        raise CheckpointMismatch("the file holds no backbone of this kind", missing=["conv1.weight"])
    return converted, report


def _prefixed(tensors: dict[str, Tensor], unused: tuple[str, ...]) -> tuple[StateDict, ConversionReport]:
    converted = {f"{_OWN}{name}": value for name, value in tensors.items()}
    report = ConversionReport(renamed={name: f"{_OWN}{name}" for name in tensors})
    report.dropped = dict.fromkeys(unused, _CLASSIFIER)
    return converted, report
