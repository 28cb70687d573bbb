"""Losses by hand-worked numbers."""

import math

import pytest
import torch

from refseg.losses import boxes, masks, matching


def test_focal_at_logit_zero_is_a_quarter_of_the_weighted_entropy():
    loss = masks.focal(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.75]) * 0.25 * math.log(2))


def test_focal_fades_what_is_easy():
    easy, hard = masks.focal(torch.tensor([4.0, -4.0]), torch.ones(2))
    assert hard / easy > 1000


def test_dice_of_a_perfect_and_of_an_opposite_mask():
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert masks.dice(torch.tensor([[60.0, 60.0, -60.0, -60.0]]), target).item() == pytest.approx(0, abs=1e-6)
    assert masks.dice(torch.tensor([[-60.0, -60.0, 60.0, 60.0]]), target).item() == pytest.approx(
        1 - 1 / 5, abs=1e-6
    )


def test_dice_of_an_empty_answer_to_an_empty_target_is_zero():
    assert masks.dice(torch.full((1, 4), -60.0), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


def test_generalised_iou_by_hand():
    # Two boxes of 2 x 2 that share 1 x 2: IoU 2/6, hull 3 x 2 without a gap.
    first, second = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0, 2.0])
    assert boxes.generalised_iou(first, second).item() == pytest.approx(2 / 6, abs=1e-5)
    # Unit boxes with a gap of one between them: hull 3, union 2.
    first, second = torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([2.5, 0.5, 1.0, 1.0])
    assert boxes.generalised_iou(first, second).item() == pytest.approx(-1 / 3, abs=1e-5)


def test_a_box_without_area_has_a_finite_iou():
    assert torch.isfinite(boxes.generalised_iou(torch.zeros(4), torch.tensor([0.5, 0.5, 0.2, 0.2])))


def test_corners_and_distances():
    box = torch.tensor([0.5, 0.4, 0.2, 0.6])
    torch.testing.assert_close(boxes.corners(box), torch.tensor([0.4, 0.1, 0.6, 0.7]))
    assert boxes.l1(box, torch.zeros(4)).item() == pytest.approx(1.7)


def test_the_cheapest_query_is_matched_and_no_number_never_is():
    costs = torch.tensor([[3.0, 1.0, 2.0], [torch.nan, 5.0, 4.0]])
    assert matching.cheapest(costs).tolist() == [1, 2]


def test_a_confident_class_is_cheaper():
    costs = matching.class_cost(torch.tensor([-3.0, 0.0, 3.0]))
    assert costs[0] > costs[1] > costs[2]
    assert costs[1].item() == pytest.approx((0.25 - 0.75) * 0.25 * math.log(2), abs=1e-6)
