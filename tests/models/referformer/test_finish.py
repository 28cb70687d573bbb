"""Orders of finishing, by hand-worked masks."""

import pytest
import torch

from refseg.models.referformer import finish
from refseg.structures import Output, Placement


def test_video_masks_ignore_the_padding_of_a_shared_canvas():
    alone = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    shared = torch.nn.functional.pad(alone, (0, 3, 0, 2), value=9.0)
    small = Placement((31, 40), (19, 27), (0, 0), (19, 27))
    large = Placement((31, 40), (19, 27), (0, 0), (28, 40))
    assert torch.equal(finish.video_scores(alone, small), finish.video_scores(shared, large))


@pytest.mark.parametrize("protocol", ["video", "image"])
def test_masks_on_the_canvas_have_its_size(protocol):
    placement = Placement((31, 40), (19, 27), (0, 0), (21, 30))
    masks = finish.finish_masks(torch.randn(3, 6, 8), placement, 0.5, protocol=protocol, at="canvas")
    assert masks.shape == (3, 21, 30)


def test_image_masks_are_thresholded_before_the_last_resize():
    # One cell is just above the threshold; nearest enlarging keeps its edge where it was, at 4 of 8 pixels.
    logits = torch.tensor([[[1.0, -1.0]]])
    placement = Placement((8, 16), (4, 8), (0, 0), (4, 8))
    masks = finish.finish_masks(logits, placement, 0.5, protocol="image")
    assert masks.shape == (1, 8, 16)
    assert masks[0, :, :8].all()
    assert not masks[0, :, 8:].any()


def test_objects_share_a_map_and_weak_ones_give_way_to_the_background():
    first, second = torch.tensor([[[0.9, 0.6, 0.4, 0.0]]]), torch.tensor([[[0.5, 0.7, 0.4, 0.0]]])
    assert finish.merge_objects([first, second]).tolist() == [[[1, 2, 0, 0]]]


def test_a_candidate_may_appear_once_for_each_of_its_classes():
    classes = torch.tensor([[3.0, 2.0], [-1.0, -2.0]]).view(1, 2, 1, 2)
    output = Output(torch.zeros(1, 2, 1, 2, 2), classes, torch.full((1, 2, 1, 4), 0.5))
    ranked = finish.rank_candidates(output, [Placement((10, 20), (8, 8), (0, 0), (8, 8))], 0.5)[0]
    torch.testing.assert_close(ranked.scores, torch.tensor([3.0, 2.0]).sigmoid())
    assert ranked.boxes[0].tolist() == [5.0, 2.5, 15.0, 7.5]  # centre and half the size of 20 x 10 pixels
