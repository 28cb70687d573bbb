"""Clips and their boxes, moved together; exact numbers are in the parity case `data-transforms`."""

import pytest
import torch

from refseg.data import video_augment
from refseg.errors import InvalidInput


def clip():
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 2:6, 4:9] = True  # the second frame shows no object
    frames = torch.arange(2 * 3 * 10 * 20).remainder(256).to(torch.uint8).view(2, 3, 10, 20)
    return video_augment.boxed(frames, masks)


def test_boxes_run_from_the_first_to_the_last_pixel():
    assert clip().boxes.tolist() == [[4, 2, 8, 5], [0, 0, 0, 0]]
    assert clip().visible.tolist() == [True, False]


def test_a_mirrored_mirror_is_the_clip():
    twice = video_augment.mirror(video_augment.mirror(clip()))
    assert torch.equal(twice.frames, clip().frames)
    assert torch.equal(twice.boxes, clip().boxes)


def test_a_crop_clips_boxes_to_itself():
    part = video_augment.crop(clip(), top=4, left=6, size=(5, 10))
    assert part.boxes[0].tolist() == [0, 0, 2, 1]
    assert part.masks[0].sum() == 2 * 3
    assert part.frames.shape == (2, 3, 5, 10)


def test_an_object_that_left_the_crop_is_no_longer_visible_and_keeps_its_mask():
    part = video_augment.check(video_augment.crop(clip(), top=5, left=8, size=(5, 10)))
    assert part.visible.tolist() == [False, False]
    assert part.boxes.abs().sum() == 0
    assert part.masks[0].sum() == 1  # a single pixel has a box without area


def test_boxes_grow_with_the_frames():
    larger = video_augment.resize(clip(), 20)
    assert larger.size == (20, 40)
    assert larger.boxes[0].tolist() == [8, 4, 16, 10]
    assert larger.frames.dtype == torch.uint8


def test_the_longest_side_is_respected():
    assert video_augment.resize(clip(), 20, longest=30).size == (15, 30)


def test_content_boxes_are_shares_of_the_frames():
    assert video_augment.content_boxes(clip())[0].tolist() == pytest.approx([0.3, 0.35, 0.2, 0.3])


def test_a_crop_beyond_the_frames_is_refused():
    with pytest.raises(InvalidInput, match="beyond"):
        video_augment.crop(clip(), top=0, left=15, size=(5, 10))
