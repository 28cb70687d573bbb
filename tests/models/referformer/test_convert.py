"""Published names: what is dropped, what is refused."""

import dataclasses

import pytest
import torch

from refseg.errors import CheckpointMismatch
from refseg.models.referformer.config import VARIANTS
from refseg.models.referformer.convert import convert

REFINED = VARIANTS["debug"]  # two decoder layers
SHARED = dataclasses.replace(REFINED, refines_boxes=False)


def test_leftovers_of_a_profiler_and_fixed_ranges_are_dropped():
    names = ["total_ops", "transformer.encoder.total_params", "text_encoder.embeddings.position_ids"]
    converted, report = convert({name: torch.zeros(1) for name in names}, REFINED)
    assert converted == {}
    assert sorted(report.dropped) == sorted(names)


def test_the_decoders_own_name_of_a_box_head_is_a_second_name():
    state = {
        "bbox_embed.1.layers.0.bias": torch.ones(3),
        "transformer.decoder.bbox_embed.1.layers.0.bias": torch.ones(3),
    }
    converted, _ = convert(state, REFINED)
    assert list(converted) == ["decoder.box_heads.1.layers.0.bias"]


def test_two_names_with_different_values_are_refused():
    state = {
        "bbox_embed.1.layers.0.bias": torch.ones(3),
        "transformer.decoder.bbox_embed.1.layers.0.bias": torch.zeros(3),
    }
    with pytest.raises(CheckpointMismatch, match="differ"):
        convert(state, REFINED)


def test_heads_that_layers_share_become_one():
    converted, _ = convert({f"class_embed.{layer}.weight": torch.ones(2) for layer in (0, 1)}, SHARED)
    assert list(converted) == ["decoder.class_heads.0.weight"]


def test_a_name_that_no_rule_knows_is_left():
    _, report = convert({"mask_refiner.weight": torch.ones(1)}, REFINED)
    assert report.left == ["mask_refiner.weight"]
