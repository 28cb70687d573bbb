"""The same counts under other conventions, worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.metrics import protocols
from refseg.metrics.scores import Pixels, overlap_scores

HALF, WHOLE, NOTHING, MISSED, WRONG = (
    Pixels(50, 50, 100),
    Pixels(100, 100, 100),
    Pixels(0, 0, 0),
    Pixels(0, 0, 100),
    Pixels(0, 30, 0),
)
ROWS = st.lists(
    st.builds(
        lambda shared, a, t: Pixels(shared, shared + a, shared + t),
        st.integers(0, 99),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=10,
)


def test_conventions_differ_in_empty_masks_and_in_equality():
    rows = [HALF, WHOLE, NOTHING, MISSED]
    refer, vlformer, honest = (
        overlap_scores(rows, protocol) for protocol in (protocols.REFER, protocols.VLFORMER, protocols.HONEST)
    )
    assert refer["mIoU"] == 1.5 / 4
    assert vlformer["mIoU"] == 2.5 / 4
    assert honest["mIoU"] == 1.5 / 3
    assert (refer["P@0.5"], vlformer["P@0.5"], honest["P@0.5"]) == (2 / 4, 2 / 4, 2 / 3)
    assert refer["oIoU"] == honest["oIoU"] == 150 / 300


def test_phrases_without_a_target_count_in_refused_alone():
    got = overlap_scores([WHOLE, NOTHING, WRONG, MISSED], protocols.HONEST)
    assert got["refused"] == 0.5
    assert got["kept"] == 0.5
    assert got["oIoU"] == 100 / 200
    assert overlap_scores([WHOLE, WRONG], protocols.REFER)["oIoU"] == 100 / 130


def test_sums_are_exact_beyond_what_float32_can_count():
    many = [Pixels(2**31 + 1, 2**31 + 1, 2**31 + 3)] * 3
    assert overlap_scores(many, protocols.REFER)["oIoU"] == (2**31 + 1) / (2**31 + 3)


def test_nothing_has_no_numbers():
    assert all(math.isnan(value) for value in overlap_scores([], protocols.HONEST).values())
    assert math.isnan(overlap_scores([NOTHING], protocols.REFER)["oIoU"])


@given(ROWS)
def test_shares_stay_shares_under_every_convention(rows):
    for protocol in protocols.PROTOCOLS.values():
        for name, value in overlap_scores(rows, protocol).items():
            assert math.isnan(value) or 0 <= value <= 1, (protocol.name, name, value)


@given(ROWS)
def test_counting_equal_ious_never_lowers_precision(rows):
    strict = overlap_scores(rows, replace(protocols.REFER, counts_equal=False))
    assert all(overlap_scores(rows, protocols.REFER)[name] >= strict[name] for name in ("P@0.5", "P@0.9"))


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_numbers_are_shown_as_the_published_code_rounds_them(protocol):
    assert protocol.show(math.nan) == "-"
    assert float(protocol.show(0.123456)) == pytest.approx(12.3456, abs=0.006)
