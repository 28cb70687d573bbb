"""A varied example tells the same truth: words, pixels, masks and boxes move together."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refseg.data.augment.geometric import crop, mirror, rescale
from refseg.data.augment.steps import CropAround, Flip, Rescale, draw_neighbours, draw_phrases, vary
from refseg.data.collate import content_boxes
from refseg.errors import InvalidInput
from refseg.structures import Example, Placement, Things


def painted(height, width, box, frames=2):
    """An example whose first mask is a rectangle that is painted white on black; a second phrase has an empty mask."""
    top, left, bottom, right = box
    mask = torch.zeros(frames, height, width, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    pixels = (mask[:, None] * 255).to(torch.uint8).expand(-1, 3, -1, -1).clone()
    masks = torch.stack([mask, torch.zeros_like(mask)])
    things = Things(mask.to(torch.uint8), torch.tensor([4]), torch.tensor([-1]))
    return Example("painted", pixels, ("left box", "nothing on the right"), masks, things=things)


@st.composite
def examples(draw, thinnest=1):
    height, width = draw(st.integers(max(3, thinnest), 41)), draw(st.integers(max(3, thinnest), 41))
    top, left = draw(st.integers(0, height - thinnest)), draw(st.integers(0, width - thinnest))
    bottom, right = draw(st.integers(top + thinnest, height)), draw(st.integers(left + thinnest, width))
    return painted(height, width, (top, left, bottom, right))


def box_of(masks):
    size = (masks.shape[-2], masks.shape[-1])
    return content_boxes(masks, Placement(size, size, (0, 0), size))[0]


@given(example=examples(), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_pixels_masks_ids_and_boxes_stay_together_when_mirrored_and_cropped(example, seed):
    steps = (Flip(probability=0.5), CropAround(probability=0.7))
    varied = vary(example, steps, torch.Generator().manual_seed(seed))
    seen = varied.frames[:, 0] > 127
    assert torch.equal(varied.masks[0], seen)
    assert torch.equal(varied.things.ids.bool(), seen)
    assert torch.equal(box_of(varied.masks[0][None]), box_of(seen[None]))
    assert not varied.masks[1].any()


def edges_of(masks):
    """The pixels between which the object of masks [T, H, W] lies: top, left, bottom, right of each frame."""
    rows, columns = masks.any(-1), masks.any(-2)
    return [
        (int(r.nonzero()[0]), int(c.nonzero()[0]), int(r.nonzero()[-1]) + 1, int(c.nonzero()[-1]) + 1)
        for r, c in zip(rows, columns, strict=True)
    ]


# A line two pixels wide fades to grey when the picture shrinks by half: where its end lies is then no longer to be seen.
# In the case of 0.53125 both ends are rounded apart, so that the sides differ by two pixels and each edge by one.
@given(example=examples(thinnest=4), factor=st.floats(0.5, 2.0))
@example(example=painted(9, 12, (1, 0, 8, 12)), factor=0.53125)
@settings(deadline=None)
def test_every_edge_of_the_mask_follows_resized_pixels_to_within_a_pixel(example, factor):
    varied = rescale(example, factor)
    assert varied.masks.shape[-2:] == varied.frames.shape[-2:]
    seen, masks = varied.frames[:, 0] > 127, varied.masks[0]
    for ours, theirs in zip(edges_of(seen), edges_of(masks), strict=True):
        # Nearest and antialiased resizing round an edge to neighbouring pixels.
        assert all(abs(one - other) <= 1 for one, other in zip(ours, theirs, strict=True))


@given(example=examples(), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_a_crop_keeps_every_object_whole(example, seed):
    varied = CropAround()(example, torch.Generator().manual_seed(seed))
    assert varied.masks[0].sum() == example.masks[0].sum()


def test_a_crop_cuts_pixels_and_not_only_their_frame():
    example = painted(9, 7, (1, 2, 8, 3))
    part = crop(example, 1, 2, (3, 4))
    assert part.frames.shape == (2, 3, 3, 4)
    assert part.masks[0, 0].tolist() == [[True, False, False, False]] * 3


def test_mirroring_exchanges_sides_in_pixels_and_in_words():
    mirrored = mirror(painted(5, 8, (0, 0, 5, 3)))
    assert mirrored.masks[0, 0, 0].nonzero().flatten().tolist() == [5, 6, 7]
    assert mirrored.phrases == ("right box", "nothing on the left")


def test_mirroring_twice_is_the_example_itself():
    example = painted(5, 8, (0, 0, 5, 3))
    twice = mirror(mirror(example))
    assert torch.equal(twice.frames, example.frames)
    assert twice.phrases == example.phrases


def test_the_example_itself_is_left_alone():
    example = painted(9, 7, (1, 2, 8, 3))
    pixels = example.frames.clone()
    steps = (Flip(probability=1.0), Rescale(low=1.5, high=1.5), CropAround())
    vary(draw_phrases(example, 1, torch.Generator()), steps, torch.Generator())
    assert torch.equal(example.frames, pixels)
    assert example.phrases == ("left box", "nothing on the right")


def test_chosen_phrases_keep_their_masks():
    example = painted(5, 8, (0, 0, 5, 3))
    kept = {draw_phrases(example, 1, torch.Generator().manual_seed(s)).phrases[0]: s for s in range(20)}
    assert set(kept) == set(example.phrases)
    one = draw_phrases(example, 1, torch.Generator().manual_seed(kept["left box"]))
    assert one.masks.shape[0] == 1
    assert one.masks[0].any()


def test_chosen_frames_are_neighbours_among_those_with_masks():
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 4, 5).clone()
    masks = torch.zeros(1, 3, 4, 5, dtype=torch.bool)
    clip = Example("clip", pixels, ("a",), masks, target_frames=torch.tensor([0, 2, 5]))
    shown = {
        tuple(draw_neighbours(clip, 2, torch.Generator().manual_seed(seed)).frames[:, 0, 0, 0].tolist())
        for seed in range(20)
    }
    assert shown == {(0, 2), (2, 5)}


def test_a_clip_with_too_few_frames_is_refused_by_name():
    with pytest.raises(InvalidInput, match="painted has 2 frames with masks, and 3 were asked for"):
        draw_neighbours(painted(5, 8, (0, 0, 5, 3)), 3, torch.Generator())
