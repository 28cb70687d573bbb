"""What the criterion counts, on answers made by hand."""

import dataclasses
import math

import pytest
import torch

from refseg.models.vlformer.family import FAMILY
from refseg.structures import Output, Targets


def criterion(**changes):
    torch.manual_seed(0)
    return FAMILY.criterion(dataclasses.replace(FAMILY.loss, num_points=200, **changes))


def target(*visible):
    """One phrase whose object fills the left half of every visible frame of 16x16."""
    masks = torch.zeros(1, len(visible), 16, 16, dtype=torch.bool)
    masks[..., :8] = True
    return Targets(
        masks, torch.tensor([visible]), torch.zeros(1, len(visible), 4), torch.zeros(1, dtype=torch.int64)
    )


def answer(*, right=1, frames=1, scores=(0.0, 0.0)):
    """Three candidates, of which `right` is the left half and the others are the right one."""
    logits = torch.full((1, 3, frames, 4, 4), 30.0)
    logits[:, :, :, :, :2] = -30.0
    logits[:, right] = -logits[:, right]
    return Output(logits, torch.tensor(scores).expand(1, 3, 1, 2).clone())


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_candidate_that_fits_is_matched(right):
    assert criterion().match(answer(right=right), target(True)).tolist() == [right]


def test_the_class_term_weighs_the_many_that_are_no_object_little():
    # Equal scores: log 2 for each of three, weights 1, 0.1 and 0.1, averaged by weight; times 2.
    assert criterion()(answer(), target(True))["class"].item() == pytest.approx(2 * math.log(2), rel=1e-5)
    sure = criterion()(answer(scores=(3.0, 0.0)), target(True))["class"].item()
    right, wrong = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    assert sure == pytest.approx(2 * (right + 0.2 * wrong) / 1.2, rel=1e-5)


def test_a_phrase_without_an_object_has_no_mask_terms_and_a_gradient():
    told = answer()
    told.mask_logits.requires_grad_()
    told.class_logits.requires_grad_()
    terms = criterion()(told, target(False))
    assert terms["mask"].item() == terms["dice"].item() == 0
    sum(terms.values()).backward()
    assert torch.isfinite(told.mask_logits.grad).all()
    assert terms["class"].item() == pytest.approx(2 * math.log(2), rel=1e-5)


def test_mask_terms_grow_with_the_frames_of_a_clip():
    # Published behaviour: summed over frames, divided by the number of objects alone.
    wrong = answer(right=0)
    wrong.mask_logits = -wrong.mask_logits[:, :1]  # one candidate, and it is wrong
    wrong.class_logits = wrong.class_logits[:, :1]
    one = criterion()(wrong, target(True))["dice"].item()
    wrong.mask_logits = wrong.mask_logits.expand(-1, -1, 3, -1, -1)
    three = criterion()(wrong, target(True, True, True))["dice"].item()
    assert three == pytest.approx(3 * one, rel=0.05)


def test_the_prediction_before_the_last_is_not_supervised():
    output = answer()
    output.earlier = (answer(right=0), answer(right=2), answer(right=0))
    terms = criterion()(output, target(True))
    assert sorted(terms) == sorted(
        f"{kind}{ending}" for kind in ("class", "mask", "dice") for ending in ("", "_0", "_1")
    )


def test_points_are_drawn_again_for_every_prediction_and_depend_on_the_seed():
    drawn = []
    made = criterion()
    made.draw = lambda rows, count, device: drawn.append((rows, count)) or torch.rand(rows, count, 2)
    output = answer()
    output.earlier = (answer(), answer())
    made(output, target(True))
    # For each of two supervised predictions: the matcher's, the candidates (three times as many), the uniform quarter.
    assert drawn == [(1, 200), (1, 600), (1, 50)] * 2
