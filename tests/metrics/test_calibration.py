"""Calibration against a slow plain definition, hand-worked cases, and a temperature that is known."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refseg.errors import InvalidInput
from refseg.metrics.calibration import calibration, fit_scaling, logits_of

# Hundredths and sixteenths lie on the edges of bins; floats lie anywhere.
SCORES = st.one_of(
    st.integers(0, 100).map(lambda n: n / 100), st.integers(0, 16).map(lambda n: n / 16), st.floats(0, 1)
)
PAIRS = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=40)
BINS = st.integers(1, 20)


def plain_ece(groups):
    """Guo and others, equation 3, over lists of (score, event)."""
    total = sum(map(len, groups))
    return sum(
        len(group)
        / total
        * abs(sum(s for s, _ in group) / len(group) - sum(e for _, e in group) / len(group))
        for group in groups
        if group
    )


def equal_width(pairs, bins):
    groups = []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        groups.append([(s, e) for s, e in pairs if low < s <= high or (k == 0 and s == 0)])
    return groups


def equal_count(pairs, bins):
    groups = [[] for _ in range(bins)]
    for score, event in pairs:
        smaller = sum(other < score for other, _ in pairs)
        groups[math.floor(bins * smaller / len(pairs) + 1e-12)].append((score, event))
    return groups


def measured(pairs, bins=15):
    return calibration([s for s, _ in pairs], [e for _, e in pairs], bins=bins)


@given(PAIRS, BINS)
def test_errors_are_those_of_the_plain_definition(pairs, bins):
    found = measured(pairs, bins)
    assert found.ece == pytest.approx(plain_ece(equal_width(pairs, bins)), abs=1e-12)
    assert found.adaptive_ece == pytest.approx(plain_ece(equal_count(pairs, bins)), abs=1e-12)
    assert found.brier == pytest.approx(sum((s - e) ** 2 for s, e in pairs) / len(pairs), abs=1e-12)
    assert (found.phrases, found.events) == (len(pairs), sum(e for _, e in pairs))


@given(PAIRS, BINS)
def test_every_phrase_is_in_one_bin_of_the_table(pairs, bins):
    found = measured(pairs, bins)
    assert [row.count for row in found.bins] == [len(group) for group in equal_width(pairs, bins)]
    assert sum(row.count for row in found.adaptive) == len(pairs)
    for row in (*found.bins, *found.adaptive):
        assert row.count == 0 or row.low - 1e-12 <= row.score <= row.high + 1e-12
    for below, above in zip(found.adaptive, found.adaptive[1:], strict=False):
        assert below.high < above.low  # equal scores stay together


@given(PAIRS, BINS, st.randoms())
def test_the_order_of_phrases_says_nothing(pairs, bins, dice):
    turned = list(pairs)
    dice.shuffle(turned)
    ours, theirs = measured(pairs, bins), measured(turned, bins)
    assert ours.ece == pytest.approx(theirs.ece, abs=1e-12)
    assert ours.adaptive_ece == pytest.approx(theirs.adaptive_ece, abs=1e-12)


@given(PAIRS)
def test_no_binning_finds_less_than_the_gap_of_the_means_nor_more_than_one(pairs):
    gap = abs(sum(s for s, _ in pairs) - sum(e for _, e in pairs)) / len(pairs)
    found = measured(pairs)
    assert gap - 1e-12 <= found.ece <= 1
    assert gap - 1e-12 <= found.adaptive_ece <= 1
    assert measured(pairs, 1).ece == pytest.approx(gap, abs=1e-12)


def test_a_case_worked_out_by_hand():
    found = calibration([0.9, 0.9, 0.9, 0.9, 0.2], [True, True, True, False, False], bins=2)
    assert found.ece == pytest.approx(0.8 * (0.9 - 0.75) + 0.2 * 0.2)
    assert found.brier == pytest.approx((3 * 0.01 + 0.81 + 0.04) / 5)
    low, high = found.bins
    assert (low.low, low.high, low.count, low.share) == (0.0, 0.5, 1, 0.0)
    assert (high.count, high.share) == (4, 0.75)
    assert high.gap == pytest.approx(0.15)


def test_sure_and_right_has_no_error_and_sure_and_wrong_has_all():
    assert calibration([1.0, 0.0], [True, False]).ece == 0
    assert calibration([1.0, 0.0], [False, True]).ece == 1


def test_a_score_on_an_edge_belongs_below_it():
    assert [row.count for row in calibration([0.0, 0.1, 0.3, 0.7], [True] * 4, bins=10).bins] == [
        2, 0, 1, 0, 0, 0, 1, 0, 0, 0
    ]  # fmt: skip


def test_nothing_asked_has_no_number():
    found = calibration([], [])
    assert all(map(math.isnan, (found.ece, found.adaptive_ece, found.brier)))
    assert found.phrases == 0


@pytest.mark.parametrize(
    ("scores", "events", "bins", "told"),
    [
        ([0.5], [True, False], 15, "1 scores predict 2 events"),
        ([1.5], [True], 15, "1.5"),
        ([math.nan], [True], 15, "no finite number"),
        ([0.5], [True], 0, "0 bins"),
    ],
)
def test_what_cannot_be_measured_is_refused(scores, events, bins, told):
    with pytest.raises(InvalidInput, match=told):
        calibration(scores, events, bins=bins)


def drawn(count, temperature, bias, seed=0):
    """Logits whose scaled sigmoid is exactly how likely the event is."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(1.0, 4.0, count)
    return logits, dice.random(count) < 1 / (1 + np.exp(-(logits / temperature + bias)))


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.5, -0.7), (0.4, 0.3)])
def test_a_known_temperature_and_bias_are_found_again(temperature, bias):
    found = fit_scaling(*drawn(40_000, temperature, bias))
    assert found.temperature == pytest.approx(temperature, rel=0.05)  # 40,000 draws leave 1 to 2 %
    assert found.bias == pytest.approx(bias, abs=0.1)


def test_scaled_scores_are_better_calibrated_on_other_draws():
    scaling = fit_scaling(*drawn(5_000, 3.0, 0.5))
    logits, events = drawn(50_000, 3.0, 0.5, seed=1)  # fewer leave more noise in 15 bins than the bar
    before = calibration(1 / (1 + np.exp(-logits)), events)
    after = calibration(scaling.score(logits), events)
    assert before.ece > 0.1
    assert after.ece < 0.02
    assert after.brier < before.brier


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=4, max_size=30),
    st.floats(-0.3, 0.3),
    st.floats(-0.3, 0.3),
)
def test_no_neighbour_of_the_fit_is_more_likely(pairs, longer, further):
    logits, events = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    assume(events.any() and not events.all() and logits.std() > 1e-3)
    assume(logits[~events].max() > logits[events].min())  # else the targets are others
    try:
        found = fit_scaling(logits, events)
    except InvalidInput:
        assume(False)

    def entropy(slope, bias):
        values = slope * logits + bias
        return np.mean(np.logaddexp(0, values) - events * values)

    slope = 1 / found.temperature
    assert entropy(slope, found.bias) <= entropy(slope * (1 + longer), found.bias + further) + 1e-9


def test_events_that_one_logit_separates_are_fitted_to_the_targets_of_so_few_examples():
    found = fit_scaling([1.0, 3.0], [False, True])
    # One event and one absence: Platt's targets are 2/3 and 1/3, which two scores meet exactly.
    assert found.score(np.array([1.0, 3.0])) == pytest.approx([1 / 3, 2 / 3], abs=1e-6)
    many = fit_scaling([1.0] * 98 + [3.0] * 98, [False] * 98 + [True] * 98)
    assert many.score(np.array([1.0, 3.0])) == pytest.approx([0.01, 0.99], abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "events", "told"),
    [
        ([1.0, 2.0], [True, True], "2 events and 0 absences"),
        ([1.0, 1.0, 1.0], [False, True, True], "all logits are equal"),
        ([3.0, 2.0, 2.5, 1.0], [False, True, False, True], "fewer events"),
        ([3.0, 2.0, 2.5, 1.0, 2.1], [False, True, False, True, True], "fewer events"),
        ([3.0, 2.0, 2.5, 1.0, 2.6], [False, True, False, True, True], "fewer events"),
    ],
)
def test_a_fit_without_a_finite_answer_is_refused(logits, events, told):
    with pytest.raises(InvalidInput, match=told):
        fit_scaling(logits, events)


def test_logits_of_scores_are_finite_and_give_the_scores_back():
    scores = np.array([0.0, 1e-6, 0.3, 0.5, 1 - 1e-6, 1.0])
    assert np.isfinite(logits_of(scores)).all()
    assert 1 / (1 + np.exp(-logits_of(scores))) == pytest.approx(scores, abs=1e-7)
