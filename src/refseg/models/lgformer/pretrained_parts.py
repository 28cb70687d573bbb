"""What training begins with: a public Swin classification file, of whatever window, and the hub's BERT."""

from __future__ import annotations

import torch

from refseg.encoders.swin import Swin, classification_start
from refseg.errors import CheckpointMismatch
from refseg.models.base import ModelConfig, StateDict
from refseg.models.lgformer.config import LGFormerConfig
from refseg.models.renaming import ConversionReport, Drop, Rename, apply

_OWN = "backbone.swin."  # of our names


def start_backbone(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """Patch embedding, blocks and mergings of the backbone; fusions, gates and output norms begin anew.

    Raises:
        CheckpointMismatch: if the file is of another network.
    """
    assert isinstance(config, LGFormerConfig)
    with torch.device("meta"):
        wanted = Swin(config.backbone).state_dict()
    start = classification_start(state, wanted)
    converted = {f"{_OWN}{name}": value for name, value in start.tensors.items()}
    report = ConversionReport(renamed={name: f"{_OWN}{name}" for name in start.tensors})
    report.dropped = dict.fromkeys(start.unused, "the classifier of the file")
    return converted, report


def start_text(state: StateDict, config: ModelConfig) -> tuple[StateDict, ConversionReport]:
    """The text tower from the hub's BERT, whose early files name scale and shift of a norm gamma and beta.

    Raises:
        CheckpointMismatch: if the file holds no BERT.
    """
    del config
    converted, report = apply(
        state,
        [
            Drop(r".*\.(position_ids|token_type_ids)", "a fixed range of numbers, computed when needed"),
            Drop(r"(bert\.)?pooler\..*|cls\..*", "pooler and heads, which are not used"),
            Rename(r"(?:bert\.)?((?:embeddings|encoder)\..*LayerNorm)\.gamma", r"text_tower.\1.weight"),
            Rename(r"(?:bert\.)?((?:embeddings|encoder)\..*LayerNorm)\.beta", r"text_tower.\1.bias"),
            Rename(r"(?:bert\.)?((?:embeddings|encoder)\..*)", r"text_tower.\1"),
        ],
    )
    if not converted:
        raise CheckpointMismatch("the file holds no BERT", missing=["embeddings.word_embeddings.weight"])
    return converted, report
