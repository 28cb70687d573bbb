"""Examples of any size become one batch, and everything lies where the frames lie."""

import pytest
import torch

from refseg.data.collate import collate, content_boxes
from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Example, Placement, Things

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SHORTEST = FrameSpec(fit="shortest", size=20, longest=40, divisor=8, fill=-7.0, **PLAIN)
SQUARE = FrameSpec(fit="letterbox", size=12, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))


def example(height, width, *, frames=1, phrases=("thing",), masks=None, seed=0, **more):
    pixels = torch.randint(0, 256, (frames, 3, height, width), generator=torch.Generator().manual_seed(seed))
    if masks is None:
        masks = torch.zeros(len(phrases), frames, height, width, dtype=torch.bool)
    return Example(f"{height}x{width}", pixels.to(torch.uint8), phrases, masks, **more)


def test_frames_that_fill_the_canvas_are_normalised_and_nothing_else():
    first, second = example(12, 12, seed=1), example(12, 12, seed=2)
    batch = collate([first, second], SQUARE)
    assert batch.clips.pixels.shape == (2, 1, 3, 12, 12)
    for row, given in zip(batch.clips.pixels, (first, second), strict=True):
        red, green, blue = (given.frames[0].double() / 255).unbind(0)
        expected = torch.stack([(red - 0.5) / 0.5, (green - 0.25) / 0.5, blue / 2])
        torch.testing.assert_close(row[0].double(), expected, atol=1e-6, rtol=0)  # float32 of values near one


def test_clips_of_odd_sizes_share_the_largest_canvas():
    batch = collate([example(20, 31), example(33, 20)], SHORTEST)
    assert batch.clips.pixels.shape == (2, 1, 3, 40, 32)  # the sides grow to multiples of 8: 24x32 and 40x24
    assert [p.canvas for p in batch.placements] == [(40, 32), (40, 32)]
    assert batch.clips.content.tolist() == [[20, 31], [33, 20]]
    assert batch.clips.valid.sum((1, 2)).tolist() == [20 * 31, 33 * 20]
    assert batch.clips.valid[0, :20, :31].all()
    assert batch.clips.valid[1, :33, :20].all()


def test_padding_holds_the_fill_value():
    batch = collate([example(20, 31), example(33, 20)], SHORTEST)
    outside = ~batch.clips.valid[:, None, None].expand_as(batch.clips.pixels)
    assert (batch.clips.pixels[outside] == -7).all()


def test_phrases_know_their_clip():
    batch = collate([example(12, 12, phrases=("a", "b")), example(12, 12, phrases=("c",))], SQUARE)
    assert batch.phrases == ("a", "b", "c")
    assert batch.clip_of_phrase.tolist() == [0, 0, 1]


def test_masks_are_padded_onto_the_common_canvas():
    masks = torch.ones(1, 1, 20, 31, dtype=torch.bool)
    batch = collate([example(20, 31, masks=masks), example(33, 20)], SHORTEST)
    assert batch.targets.masks.shape == (2, 1, 40, 32)
    assert batch.targets.masks[0, 0, :20, :31].all()
    assert batch.targets.masks[0].sum() == 20 * 31


def test_a_box_is_a_part_of_the_content_and_not_of_the_canvas():
    masks = torch.zeros(1, 1, 6, 12, dtype=torch.bool)
    masks[0, 0, 3:6, 0:3] = True  # the lower half, the leftmost quarter
    spec = FrameSpec(fit="letterbox", size=12, **PLAIN)
    batch = collate([example(6, 12, masks=masks)], spec)
    assert batch.placements[0].offset == (3, 0)
    assert batch.targets.boxes[0, 0].tolist() == pytest.approx([0.125, 0.75, 0.25, 0.5])


def test_an_empty_mask_is_invisible_and_has_a_box_of_zeros():
    masks = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
    masks[0, 1, 4, 5] = True
    batch = collate([example(12, 12, frames=2, masks=masks)], SQUARE)
    assert batch.targets.visible.tolist() == [[False, True]]
    assert batch.targets.boxes[0, 0].tolist() == [0, 0, 0, 0]


def test_a_mask_at_the_very_edge_has_a_box_that_ends_there():
    masks = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    masks[..., 3, 7] = True
    boxes, _ = content_boxes(masks, Placement((4, 8), (4, 8), (0, 0), (4, 8)))
    assert boxes[0, 0].tolist() == pytest.approx([7.5 / 8, 3.5 / 4, 1 / 8, 1 / 4])


def test_id_maps_are_placed_like_masks():
    ids = torch.zeros(1, 20, 31, dtype=torch.uint8)
    ids[:, 2:9, 30] = 3
    things = Things(ids, torch.tensor([5, 6, 7]), torch.tensor([0, -1, 2]))
    small = Things(torch.zeros(1, 33, 20, dtype=torch.uint8), torch.tensor([]), torch.tensor([]))
    masks = (ids == 3)[None]
    batch = collate([example(20, 31, masks=masks, things=things), example(33, 20, things=small)], SHORTEST)
    placed = batch.targets.things[0]
    assert placed.ids.dtype == torch.uint8
    assert torch.equal(placed.ids == 3, batch.targets.masks[0])
    assert placed.colours.tolist() == [0, -1, 2]


def test_things_are_left_out_when_an_example_knows_none():
    things = Things(torch.zeros(1, 12, 12, dtype=torch.uint8), torch.tensor([]), torch.tensor([]))
    assert collate([example(12, 12, things=things), example(12, 12)], SQUARE).targets.things is None


def test_frames_to_segment_are_named_for_every_clip_when_one_names_them():
    masks = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
    chosen = example(12, 12, frames=2, masks=masks, target_frames=torch.tensor([1, 0]))
    batch = collate([chosen, example(12, 12, frames=2)], SQUARE)
    assert batch.clips.target_frames.tolist() == [[1, 0], [0, 1]]


def test_without_masks_there_are_no_targets():
    pixels = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    assert collate([Example("bare", pixels, ("thing",))], SQUARE).targets is None


def test_a_picture_without_phrases_is_a_batch_without_rows():
    batch = collate([example(12, 12, phrases=()), example(12, 12, phrases=("b",))], SQUARE)
    assert batch.clip_of_phrase.tolist() == [1]
    assert batch.targets.masks.shape == (1, 1, 12, 12)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (example(12, 12, frames=2), "1 frames and 12x12 has 2"),
        (Example("bare", torch.zeros(1, 3, 12, 12, dtype=torch.uint8), ("thing",)), "only one carries masks"),
    ],
)
def test_clips_that_cannot_share_a_batch_are_refused(other, said):
    with pytest.raises(InvalidInput, match=said):
        collate([example(12, 12), other], SQUARE)


def test_an_empty_batch_is_refused():
    with pytest.raises(InvalidInput, match="at least one example"):
        collate([], SQUARE)
