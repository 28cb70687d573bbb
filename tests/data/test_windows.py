"""Which frames make a training clip: the published rules, drawn from an explicit generator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.datasets import ListedExamples
from refseg.data.dataset import Timeline
from refseg.data.frame_sampling import (
    Around,
    DrawnFrames,
    SampledClips,
    Window,
    frames_around,
    pick_frames,
    window,
)
from refseg.errors import InvalidInput
from refseg.structures import Example


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def clip(length=9, annotated=None):
    """A clip whose frames show their own number; masks at the annotated ones."""
    frames = torch.arange(length, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 5).clone()
    numbers = list(range(length)) if annotated is None else annotated
    masks = torch.zeros(1, len(numbers), 4, 5, dtype=torch.bool)
    for row, number in enumerate(numbers):
        masks[0, row].view(-1)[number] = True  # tells which frame it belongs to
    return Example("clip", frames, ("a",), masks, None if annotated is None else torch.tensor(annotated))


@given(st.data())
def test_a_clip_around_a_frame_keeps_the_published_rule(data):
    length, count = data.draw(st.integers(1, 40)), data.draw(st.integers(3, 8))
    anchor, seed = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 10**6))
    frames = frames_around(length, anchor, count, drawn(seed))
    assert len(frames) == count
    assert list(frames) == sorted(frames)
    assert anchor in frames
    assert all(0 <= frame < length for frame in frames)
    assert frames == frames_around(length, anchor, count, drawn(seed))
    if anchor > 0:
        assert any(0 < anchor - frame <= 3 for frame in frames)
    if anchor < length - 1:
        assert any(0 < frame - anchor <= 3 for frame in frames)


@given(seed=st.integers(0, 10**6), anchor=st.integers(5, 34))
def test_the_other_frames_come_from_outside_the_near_ones(seed, anchor):
    frames = list(frames_around(40, anchor, 7, drawn(seed)))
    near = [frame for frame in frames if abs(frame - anchor) <= 3]
    far = [frame for frame in frames if abs(frame - anchor) > 3]
    assert len(set(far)) == len(far)  # without replacement
    assert len(near) >= 3


def test_far_frames_start_below_the_smallest_and_at_the_largest_near_one():
    # Published: indices below the smallest, and from the largest on, which may repeat it.
    repeated = [frames_around(12, 5, 8, drawn(seed)) for seed in range(200)]
    highest_twice = [f for f in repeated if any(f.count(n) == 2 and n > 5 for n in f)]
    lowest_twice = [f for f in repeated if any(f.count(n) == 2 and n <= 5 for n in f)]
    assert highest_twice
    assert not lowest_twice


def test_one_frame_is_the_anchor_itself():
    assert frames_around(9, 4, 1, drawn()) == (4,)


@pytest.mark.parametrize(("length", "count"), [(1, 5), (2, 8), (3, 6)])
def test_a_short_video_repeats_its_frames(length, count):
    frames = frames_around(length, 0, count, drawn())
    assert len(frames) == count
    assert set(frames) == set(range(length))


@pytest.mark.parametrize(
    ("length", "centre", "count", "frames"),
    [
        (9, 0, 5, (0, 0, 0, 1, 2)),  # the example of the specification
        (9, 4, 5, (2, 3, 4, 5, 6)),
        (9, 4, 6, (1, 2, 3, 4, 5, 6)),
        (9, 8, 4, (6, 7, 8, 8)),
        (1, 0, 3, (0, 0, 0)),
    ],
)
def test_a_window_is_clamped_to_the_video(length, centre, count, frames):
    assert window(length, centre, count) == frames


def test_a_frame_outside_the_video_is_refused():
    for rule in (lambda: window(5, 5, 3), lambda: frames_around(5, -1, 3, drawn())):
        with pytest.raises(InvalidInput, match="outside a video of 5 frames"):
            rule()


def test_clips_start_at_every_countth_frame_or_at_annotated_ones():
    assert Around(5).anchors(Timeline(12)) == (0, 5, 10)
    assert Around(5).anchors(Timeline(12, (3, 7))) == (3, 7)
    assert Window(5).anchors(Timeline(12, (3, 7))) == (3, 7)
    assert DrawnFrames(5).anchors(Timeline(12)) == (0,)


def test_drawn_frames_are_annotated_sorted_and_repeat():
    shown = {DrawnFrames(3).choose(Timeline(12, (3, 7)), 0, drawn(seed)) for seed in range(40)}
    assert shown == {(3, 3, 3), (3, 3, 7), (3, 7, 7), (7, 7, 7)}


class Stored:
    """A data set that counts what is read of it."""

    name, vocabulary = "stored", ("a",)

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 2

    def timeline(self, index):
        return Timeline(12)

    def example(self, index, frames):
        self.asked.append((index, tuple(frames)))
        return pick_frames(clip(12), frames)


def test_only_the_chosen_frames_are_read():
    stored = Stored()
    sampled = SampledClips(stored, Around(5))
    assert len(sampled) == 2 * 3
    example = sampled.draw(4, drawn(2))
    ((index, frames),) = stored.asked
    assert index == 1 == sampled.example_of(4)
    assert 5 in frames
    assert example.frames[:, 0, 0, 0].tolist() == list(frames)


def test_a_plain_data_set_is_sampled_from_memory():
    sampled = SampledClips(ListedExamples([clip(9)]), Window(3))
    assert len(sampled) == 9
    assert sampled.draw(8, drawn()).frames[:, 0, 0, 0].tolist() == [7, 8, 8]


def test_picked_frames_keep_their_masks():
    picked = pick_frames(clip(9), [2, 5, 5])
    assert picked.frames[:, 0, 0, 0].tolist() == [2, 5, 5]
    assert [int(mask.flatten().nonzero()) for mask in picked.masks[0]] == [2, 5, 5]
    assert picked.target_frames is None


def test_a_sparse_mask_stays_at_the_first_place_of_its_frame():
    picked = pick_frames(clip(9, annotated=[4]), [3, 4, 4, 5])
    assert picked.target_frames.tolist() == [1]
    assert int(picked.masks[0, 0].flatten().nonzero()) == 4


def test_frames_without_any_mask_are_refused():
    with pytest.raises(InvalidInput, match=r"none of the frames \[1, 2\] of clip has masks"):
        pick_frames(clip(9, annotated=[4]), [1, 2])
