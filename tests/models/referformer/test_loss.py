"""What the criterion counts, on answers made by hand."""

import math

import pytest
import torch

from refseg.models.referformer.family import FAMILY
from refseg.structures import Output, Targets


def criterion():
    return FAMILY.criterion(FAMILY.loss)


def target(*, visible=(True, True), labels=0):
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[:, :, :8, :8] = True
    boxes = torch.tensor([0.25, 0.25, 0.5, 0.5]).expand(1, 2, 4).clone()
    seen = torch.tensor([visible])
    return Targets(masks & seen[..., None, None], seen, boxes * seen[..., None], torch.tensor([labels]))


def answer(*, right=1, num_classes=1):
    """Three candidates, of which `right` is perfect in mask and box."""
    logits = torch.full((1, 3, 2, 4, 4), -20.0)
    logits[:, right, :, :2, :2] = 20.0
    boxes = torch.tensor([0.7, 0.7, 0.2, 0.2]).expand(1, 3, 2, 4).clone()
    boxes[:, right] = torch.tensor([0.25, 0.25, 0.5, 0.5])
    return Output(logits, torch.zeros(1, 3, 2, num_classes), boxes)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_candidate_that_fits_is_matched(right):
    assert criterion().match(answer(right=right), target()).tolist() == [right]


def test_a_perfect_candidate_pays_for_its_class_alone():
    terms = criterion()(answer(), target())
    assert terms["box"].item() == pytest.approx(0, abs=1e-6)
    assert terms["giou"].item() == pytest.approx(0, abs=1e-4)
    assert terms["mask"].item() == pytest.approx(0, abs=1e-6)
    assert terms["dice"].item() == pytest.approx(0, abs=1e-4)
    # Logit 0 everywhere: 2 right answers at 0.25, 4 wrong ones at 0.75, each times 0.5^2 * log 2; over 2 frames; weight 2.
    assert terms["class"].item() == pytest.approx(
        2 * (2 * 0.25 + 4 * 0.75) * 0.25 * math.log(2) / 2, rel=1e-5
    )


def test_earlier_layers_add_their_own_terms():
    output = answer()
    output.earlier = (answer(right=2), answer(right=0))
    terms = criterion()(output, target())
    assert {"class_0", "dice_1"} <= set(terms)
    assert terms["dice_0"].item() == pytest.approx(0, abs=1e-4)


def test_an_object_that_is_never_visible_gives_finite_terms():
    terms = criterion()(answer(), target(visible=(False, False)))
    assert all(torch.isfinite(term) for term in terms.values())


def test_box_terms_count_frames_without_the_object():
    # Published behaviour: the absent frame's target is a box of zeros, and the distance to it is paid.
    terms = criterion()(answer(), target(visible=(True, False)))
    assert terms["box"].item() == pytest.approx(5 * (0.25 + 0.25 + 0.5 + 0.5), rel=1e-5)


def test_a_model_of_one_class_calls_every_object_by_it():
    terms = criterion()(answer(), target(labels=40))
    assert torch.isfinite(terms["class"])


def test_masks_of_a_canvas_that_is_no_multiple_of_the_stride_are_sampled():
    odd = target()
    odd.masks = odd.masks[..., :14, :13]
    assert torch.isfinite(criterion()(answer(), odd)["dice"])
