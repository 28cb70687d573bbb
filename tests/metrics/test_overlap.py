"""Overlap scores against numbers worked out by hand."""

import math

import pytest
import torch

from refseg.errors import InvalidInput, UnknownName
from refseg.metrics.overlap import Overlaps, overlap


def mask(*rows):
    """[1, H, W] bool from strings; '#' is the object."""
    return torch.tensor([[[c == "#" for c in row] for row in rows]])


def strip(num_pixels, *, of=10):
    return mask("#" * num_pixels + "." * (of - num_pixels))


def scored(*pairs):
    overlaps = Overlaps()
    for answer, target in pairs:
        overlaps.add(answer, target)
    return overlaps.score()


def test_intersection_and_union_are_counted_frame_by_frame():
    row = overlap(
        torch.cat([mask("##.", "..."), mask("...", "..#")]),
        torch.cat([mask(".##", "..."), mask("...", "...")]),
    )
    assert row.intersection.tolist() == [1, 0]
    assert row.union.tolist() == [3, 1]


def test_oiou_weighs_pixels_and_miou_weighs_phrases():
    # IoU 8/10 and 1/2: pooled 9/12, mean 0.65.
    score = scored((strip(8), strip(10)), (strip(1), strip(2)))
    assert score.oiou == 9 / 12
    assert score.miou == pytest.approx(0.65, abs=1e-12)


@pytest.mark.parametrize(
    ("num_pixels", "expected"),
    [
        (4, (0, 0, 0, 0, 0)),
        (5, (1, 0, 0, 0, 0)),
        (6, (1, 1, 0, 0, 0)),
        (7, (1, 1, 1, 0, 0)),
        (9, (1, 1, 1, 1, 1)),
    ],
)
def test_an_iou_exactly_on_a_threshold_counts(num_pixels, expected):
    assert scored((strip(num_pixels), strip(10))).precision == expected


def test_a_phrase_without_target_counts_only_as_refused_or_not():
    nothing, something = strip(0), strip(3)
    score = scored((strip(5), strip(10)), (nothing, nothing), (something, nothing))
    assert (score.phrases, score.no_target) == (1, 2)
    assert (score.miou, score.oiou, score.kept) == (0.5, 0.5, 1.0)
    assert score.refused == 0.5


def test_an_empty_answer_to_a_real_phrase_scores_zero_and_is_not_kept():
    score = scored((strip(0), strip(4)), (strip(4), strip(4)))
    assert (score.miou, score.oiou, score.kept) == (0.5, 0.5, 0.5)
    assert math.isnan(score.refused)


def test_j_averages_frames_where_miou_pools_their_pixels():
    # Frame 1: 8/10. Frame 2: 0/2. Frame 3: nothing in either, counts as 1. Pooled: 8/12.
    answer = torch.cat([strip(8), strip(2), strip(0)])
    target = torch.cat([strip(10), strip(0), strip(0)])
    score = scored((answer, target))
    assert score.j == pytest.approx((0.8 + 0 + 1) / 3, abs=1e-12)
    assert score.miou == 8 / 12


def test_a_frame_where_nothing_is_visible_still_belongs_to_a_phrase_with_a_target():
    score = scored((torch.cat([strip(3), strip(0)]), torch.cat([strip(3), strip(0)])))
    assert (score.phrases, score.no_target, score.miou) == (1, 0, 1.0)


def test_registers_are_scored_apart_and_together():
    overlaps = Overlaps()
    overlaps.add(strip(5), strip(10), register="loc")
    overlaps.add(strip(10), strip(10), register="app")
    overlaps.add(strip(0), strip(10), register="multi")
    assert overlaps.registers == ("loc", "app", "multi")
    assert overlaps.score("loc").miou == 0.5
    assert overlaps.score("loc", "app").miou == 0.75
    assert overlaps.score().miou == 0.5


def test_parts_scored_apart_add_up_to_the_whole():
    left, right = Overlaps(), Overlaps()
    left.add(strip(5), strip(10), register="loc")
    right.add(strip(10), strip(10), register="loc")
    right.add(strip(0), strip(0), register="none")
    left.extend(right)
    assert left.score("loc").oiou == 15 / 20
    assert left.score("none").refused == 1.0


def test_no_phrases_score_nan_and_not_zero():
    score = Overlaps().score()
    assert score.phrases == 0
    assert all(math.isnan(v) for v in (score.oiou, score.miou, score.j, score.kept, *score.precision))


def test_sums_beyond_what_float32_can_count_stay_exact():
    # 2**24 + 1 pixels in sum: float32 would lose the last one.
    side = torch.ones(1, 4096, 4096, dtype=torch.bool)
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    score = scored((side, side), (one, ~one | one), (~one, one))
    assert score.oiou == (2**24 + 1) / (2**24 + 2)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(InvalidInput, match=r"\(1, 1, 3\).*\(1, 1, 4\)"):
        overlap(strip(1, of=3), strip(1, of=4))


def test_an_unknown_register_is_named_with_the_nearest():
    overlaps = Overlaps()
    overlaps.add(strip(1), strip(1), register="multi")
    with pytest.raises(UnknownName, match=r"mlti.*multi"):
        overlaps.score("mlti")
