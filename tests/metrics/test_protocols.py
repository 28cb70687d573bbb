"""Protocols are data that decide cases at the edge."""

import math

import numpy as np
import pytest

from refseg.metrics.protocols import (
    HONEST,
    PROTOCOLS,
    REFER,
    REFERFORMER_MASKS,
    TWENTIETHS,
    VLFORMER,
    VLT,
    find_protocol,
)


@pytest.mark.parametrize(
    ("protocol", "value"), [(REFER, 0.0), (VLFORMER, 1.0), (VLT, 1.0), (HONEST, math.nan)]
)
def test_two_empty_masks_are_worth_what_the_protocol_says(protocol, value):
    assert protocol.iou(0, 0) == pytest.approx(value, nan_ok=True)


def test_an_iou_on_a_threshold_counts_by_the_protocol():
    assert REFER.counts(REFER.iou(1, 2), 0.5)
    assert not VLFORMER.counts(VLFORMER.iou(1, 2), 0.5)
    assert VLT.counts(VLT.iou(50, 100), 0.5)  # the added 1e-10 lifts it


def test_single_precision_decides_three_fifths_and_seven_tenths_differently():
    assert REFERFORMER_MASKS.counts(REFERFORMER_MASKS.iou(60, 100), 0.6)
    assert not REFERFORMER_MASKS.counts(REFERFORMER_MASKS.iou(70, 100), 0.7)


def test_the_twentieths_are_those_of_floating_point():
    assert tuple(np.arange(0.5, 1, 0.05).tolist()) == TWENTIETHS


def test_protocols_have_names_of_their_own_and_titles():
    assert len(PROTOCOLS) == 17
    assert all(protocol.title and protocol.source and protocol.metrics for protocol in PROTOCOLS.values())


def test_a_family_may_speak_for_every_version_of_a_data_set():
    named = {"refcocog": VLT, "refcocog-google": REFER}
    assert find_protocol(named, "refcocog-umd") is VLT
    assert find_protocol(named, "refcocog-google") is REFER
    assert find_protocol(named, "refcoco") is None
