"""Average precision and best-scored candidates by hand-worked samples."""

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.metrics.average_precision import Ranked, average_precision, best_boxes, best_masks


def mask(width):
    area = torch.zeros(50, 50, dtype=torch.bool)
    area[:40, :width] = True
    return area


def sample(name, *candidates, target=40):
    scores, widths = zip(*candidates, strict=True)
    return Ranked(name, torch.tensor(scores), torch.stack([mask(width) for width in widths]), mask(target))


def test_a_perfect_first_candidate_is_perfect_precision():
    assert average_precision(
        [sample("a", (0.9, 40), (0.1, 5)), sample("b", (0.8, 40))]
    ).mean == pytest.approx(1)


def test_a_better_scored_wrong_candidate_costs_precision():
    precision = average_precision([sample("a", (0.9, 5), (0.5, 40))])
    assert precision.at_50 == pytest.approx(0.5)
    assert precision.small == -1  # no target is that small
    assert precision.medium == pytest.approx(1)  # COCO leaves out wrong candidates of another size


def test_thresholds_are_stepped_by_iou():
    assert average_precision([sample("a", (0.9, 29))]).mean == pytest.approx(
        0.5
    )  # IoU 0.725: five of ten thresholds


def test_of_equal_scores_the_last_candidate_is_the_best():
    assert best_masks([sample("a", (0.5, 5), (0.5, 40))]).mean_iou == pytest.approx(1)


def test_precision_counts_iou_above_the_threshold():
    best = best_masks(
        [sample("a", (1.0, 20)), sample("b", (1.0, 24))]
    )  # IoU 0.5 and, in float32, just above 0.6
    assert best.precision[:2] == (0.5, 0.5)
    assert best.overall_iou == pytest.approx(44 / 80)


def test_two_empty_masks_agree():
    assert best_masks([sample("a", (1.0, 0), target=0)]).precision[-1] == 1


def test_boxes_are_compared_by_their_corners():
    best = best_boxes(
        [torch.tensor([0.2, 0.9])],
        [torch.tensor([[0.0, 0, 9, 9], [0, 0, 4, 2]])],
        [torch.tensor([0.0, 0, 4, 4])],
    )
    assert best.mean_iou == pytest.approx(0.5, abs=1e-6)


def test_no_samples_and_equal_names_are_refused():
    with pytest.raises(InvalidInput, match="at least one"):
        average_precision([])
    with pytest.raises(InvalidInput, match="one name"):
        average_precision([sample("a", (1.0, 4)), sample("a", (1.0, 4))])
