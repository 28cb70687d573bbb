"""Scout's loss on hand-worked cases."""

import math

import pytest
import torch

from refseg.models.scout.config import ScoutLoss
from refseg.models.scout.loss import ScoutCriterion
from refseg.structures import Output, Targets


def case(*, logit=20.0, existence=20.0, box=(0.5, 0.5, 0.5, 0.5), visible=True):
    """One phrase whose 2x2 answer is its left half, target masks [1, 1, 4, 4] likewise."""
    logits = torch.tensor([[logit, -logit], [logit, -logit]])[None, None, None]
    output = Output(
        logits, class_logits=torch.full((1, 1, 1, 1), existence), boxes=torch.tensor(box)[None, None, None]
    )
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[..., :2] = visible
    boxes = torch.tensor([0.5, 0.5, 0.5, 0.5])[None, None] * visible
    return output, Targets(masks, torch.tensor([[visible]]), boxes, torch.zeros(1, dtype=torch.int64))


def test_a_perfect_answer_costs_nothing():
    terms = ScoutCriterion(ScoutLoss())(*case())
    assert sum(terms.values()).item() == pytest.approx(0.0, abs=1e-5)


def test_an_undecided_mask_costs_half_of_its_entropy():
    terms = ScoutCriterion(ScoutLoss(mask_weight=1.0, focal_gamma=1.0))(*case(logit=0.0))
    assert terms["mask"].item() == pytest.approx(math.log(2) / 2)


def test_a_box_of_half_the_width_overlaps_by_half():
    terms = ScoutCriterion(ScoutLoss(box_weight=1.0, giou_weight=1.0))(*case(box=(0.5, 0.5, 0.25, 0.5)))
    assert terms["giou"].item() == pytest.approx(0.5)
    assert terms["box"].item() == pytest.approx(0.25 / 4)


def test_a_phrase_that_nothing_answers_to_asks_for_no_box_and_no_overlap():
    terms = ScoutCriterion(ScoutLoss())(*case(logit=-20.0, existence=0.0, visible=False))
    assert terms["box"] == terms["giou"] == terms["dice"] == 0
    assert terms["existence"].item() == pytest.approx(0.5 * math.log(2))


def test_earlier_layers_are_weighed_less():
    output, targets = case(logit=0.0)
    output.earlier = (case(logit=0.0)[0],)
    terms = ScoutCriterion(ScoutLoss(earlier_weight=0.25))(output, targets)
    assert terms["mask_0"].item() == pytest.approx(terms["mask"].item() / 4)
