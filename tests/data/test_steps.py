"""Every step of augmentation keeps pixels, masks, boxes, outlines and words together, and depends on its generator alone."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from refseg.data.augment import geometric, steps
from refseg.data.collate import carried_boxes, collate
from refseg.data.formats.masks import mask_from_polygons
from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Example

# One of each class, with sizes that fit the made clips.
ONE_OF_EACH = {
    steps.Flip: steps.Flip(probability=1.0),
    steps.Resize: steps.Resize(short=(36, 61), longest=90),
    steps.Rescale: steps.Rescale(low=0.8, high=1.5),
    steps.Crop: steps.Crop(least=20, most=44),
    steps.CropAround: steps.CropAround(),
    steps.Rotate: steps.Rotate(),
    steps.Colour: steps.Colour(brightness=(0.9, 1.1), contrast=(0.9, 1.1), saturation=(0.9, 1.1)),
    steps.Distort: steps.Distort(brightness=20.0, contrast=(0.9, 1.1)),
    steps.PseudoClip: steps.PseudoClip(frames=3),
    steps.MeasureBoxes: steps.MeasureBoxes(),
    steps.CheckBoxes: steps.CheckBoxes(),
    steps.Redraw: steps.Redraw(),
    steps.Lower: steps.Lower(),
    steps.Choice: steps.Choice(options=((steps.Flip(probability=1.0),), (steps.Resize(short=(40,)),))),
}
CLIPS = [step for kind, step in ONE_OF_EACH.items() if kind is not steps.PseudoClip]
GEOMETRY = [
    step for kind, step in ONE_OF_EACH.items() if kind not in (steps.Colour, steps.Distort, steps.PseudoClip)
]


def names(step):
    return step.step


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def box_clip(height=50, width=64, frames=2, box=(14, 20, 38, 46)):
    """A bright box on black in every frame, its mask, its box and the polygon that it was drawn from."""
    top, left, bottom, right = box
    polygon = [left, top, right, top, right, bottom, left, bottom]
    mask = mask_from_polygons([polygon], (height, width)).expand(frames, -1, -1)
    pixels = (mask[:, None] * 200).to(torch.uint8).expand(-1, 3, -1, -1).clone()
    points = torch.tensor(polygon, dtype=torch.float64).view(-1, 2)
    example = Example(
        "made",
        pixels,
        ("The  LEFT box",),
        mask[None].clone(),
        labels=torch.tensor([4]),
        outlines=(((points,),) * frames,),
    )
    return geometric.with_measured_boxes(example)


boxes = st.tuples(st.integers(0, 20), st.integers(0, 26), st.integers(12, 30), st.integers(12, 38)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def inner_and_outer(mask, margin=2):
    """The mask without its border, and with a border around it; what lies at the picture's edge counts as border."""
    kernel = np.ones((2 * margin + 1,) * 2, np.uint8)
    flat = mask.numpy().astype(np.uint8)
    inner = cv2.erode(flat, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return torch.from_numpy(inner > 0), torch.from_numpy(cv2.dilate(flat, kernel) > 0)


@pytest.mark.parametrize("step", CLIPS, ids=names)
@given(box=boxes, seed=st.integers(0, 10**6))
def test_the_mask_lies_on_the_object_and_nowhere_else(step, box, seed):
    varied = step(box_clip(box=box), drawn(seed))
    for frame, mask in zip(varied.frames, varied.masks[0], strict=True):
        seen = frame.amax(0) > 100
        inner, outer = inner_and_outer(mask)
        assert bool(seen[inner].all()), "a pixel in the mask shows no object"
        assert not bool(seen[~outer].any()), "a pixel far from the mask shows the object"


@pytest.mark.parametrize("step", GEOMETRY, ids=names)
@given(box=boxes, seed=st.integers(0, 10**6))
def test_a_carried_box_bounds_the_mask_to_within_two_pixels(step, box, seed):
    varied = step(box_clip(box=box), drawn(seed))
    if varied.boxes is None:
        assert isinstance(step, steps.Rotate), "only what turns a box drops it"
        return
    measured = geometric.with_measured_boxes(varied).boxes
    seen = varied.masks.flatten(-2).any(-1) & geometric.have_area(varied.boxes)
    assert float((measured - varied.boxes)[seen].abs().max() if seen.any() else 0) <= 2


@pytest.mark.parametrize("step", GEOMETRY, ids=names)
@given(box=boxes, seed=st.integers(0, 10**6))
def test_masks_drawn_from_moved_outlines_agree_with_moved_masks(step, box, seed):
    varied = step(box_clip(box=box), drawn(seed))
    drawn_anew = geometric.redraw(varied)
    for old, new in zip(varied.masks[0], drawn_anew.masks[0], strict=True):
        inner, outer = inner_and_outer(old)
        assert bool(new[inner].all())
        assert not bool(new[~outer].any())


@pytest.mark.parametrize("step", ONE_OF_EACH.values(), ids=names)
@given(seed=st.integers(0, 10**6))
def test_equal_generators_give_equal_examples_and_the_given_one_is_untouched(step, seed):
    example = box_clip(frames=1 if isinstance(step, steps.PseudoClip) else 2)
    before = dataclasses.replace(example, frames=example.frames.clone(), masks=example.masks.clone())
    torch.manual_seed(seed)  # what the global generator holds is no part of it
    one, other = step(example, drawn(seed)), step(example, drawn(seed))
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.masks, other.masks)
    assert one.phrases == other.phrases
    assert torch.equal(example.frames, before.frames)
    assert torch.equal(example.masks, before.masks)


@pytest.mark.parametrize("step", [s for s in CLIPS if not isinstance(s, steps.Distort)], ids=names)
@given(seed=st.integers(0, 10**6))
def test_all_frames_of_a_clip_are_varied_alike(step, seed):
    varied = step(box_clip(frames=3), drawn(seed))
    for time in (1, 2):
        assert torch.equal(varied.frames[time], varied.frames[0])
        assert torch.equal(varied.masks[:, time], varied.masks[:, 0])


def test_distortion_is_drawn_for_every_frame():
    varied = steps.Distort(probability=1.0)(box_clip(frames=3), drawn(1))
    assert not torch.equal(varied.frames[0], varied.frames[1])


@given(seed=st.integers(0, 10**6), height=st.integers(30, 90), width=st.integers(30, 90))
def test_a_crop_has_sides_in_its_range_or_those_of_the_picture(seed, height, width):
    cropped = steps.Crop(least=40, most=60)(box_clip(height, width), drawn(seed))
    for side, whole in zip(geometric.size_of(cropped), (height, width), strict=True):
        assert min(40, whole) <= side <= min(60, whole)


def test_every_size_of_a_resize_is_drawn_and_no_other():
    sizes = {min(geometric.size_of(ONE_OF_EACH[steps.Resize](box_clip(), drawn(seed)))) for seed in range(30)}
    assert sizes == {36, 61}


def test_every_option_of_a_choice_is_drawn():
    choice = ONE_OF_EACH[steps.Choice]
    assert {choice(box_clip(), drawn(seed)).frames.shape[-2] for seed in range(20)} == {50, 40}


def test_a_pseudo_clip_shows_its_picture_once_and_turns_masks_with_the_others():
    picture = box_clip(frames=1)
    clip = steps.PseudoClip(frames=5)(picture, drawn(3))
    same = [torch.equal(frame, picture.frames[0]) for frame in clip.frames]
    assert sum(same) == 1
    assert clip.masks.shape == (1, 5, 50, 64)
    for frame, mask in zip(clip.frames, clip.masks[0], strict=True):
        inner, outer = inner_and_outer(mask, margin=6)  # motion blur smears by up to five pixels
        assert float((frame.amax(0)[inner] > 80).float().mean()) > 0.95
        assert float((frame.amax(0)[~outer] > 80).float().mean()) < 0.05


def test_the_place_of_the_picture_in_a_pseudo_clip_is_drawn():
    picture = box_clip(frames=1)

    def place(seed):
        frames = steps.PseudoClip(frames=3)(picture, drawn(seed)).frames
        return next(i for i, frame in enumerate(frames) if torch.equal(frame, picture.frames[0]))

    assert {place(seed) for seed in range(20)} == {0, 1, 2}


def test_a_pseudo_clip_of_a_clip_is_refused():
    with pytest.raises(InvalidInput, match="made has 2 frames; a clip is made of one picture"):
        steps.PseudoClip(frames=3)(box_clip(), drawn(0))


def test_phrases_are_lowered_and_squeezed():
    assert steps.Lower()(box_clip(), drawn(0)).phrases == ("the left box",)


def test_measured_boxes_run_from_the_first_to_the_last_pixel_and_are_zero_for_nothing():
    example = box_clip(box=(14, 20, 38, 46))
    empty = dataclasses.replace(example, masks=example.masks & False, boxes=None)
    assert example.boxes.tolist() == [[[20, 14, 45, 37]] * 2]
    assert geometric.with_measured_boxes(empty).boxes.tolist() == [[[0, 0, 0, 0]] * 2]


def test_an_object_cropped_to_a_line_of_pixels_counts_as_absent_and_keeps_its_mask():
    line = geometric.crop(box_clip(), 37, 0, (10, 64))
    checked = steps.CheckBoxes()(line, drawn(0))
    assert int(checked.masks[0, 0].sum()) == 26
    assert checked.boxes.tolist() == [[[0, 0, 0, 0]] * 2]
    assert not geometric.is_seen(checked)
    targets = collate([checked], FrameSpec("keep", 1, divisor=8)).targets
    assert not targets.visible.any()
    assert int(targets.masks[0, 0].sum()) == 26


def test_carried_boxes_reach_the_loss_as_shares_of_the_frame():
    found, seen = carried_boxes(box_clip(box=(10, 16, 30, 48)))
    assert found[0, 0].tolist() == pytest.approx([(16 + 47) / 128, (10 + 29) / 100, 31 / 64, 19 / 50])
    assert seen.all()


def test_a_zero_box_is_moved_like_any_other_until_it_is_checked():
    example = box_clip()
    absent = dataclasses.replace(example, boxes=torch.zeros(1, 2, 4))
    mirrored = steps.Flip(probability=1.0)(absent, drawn(0))
    assert mirrored.boxes[0, 0].tolist() == [64, 0, 64, 0]
    assert steps.CheckBoxes()(mirrored, drawn(0)).boxes.abs().sum() == 0


@pytest.mark.parametrize(
    "values",
    [
        {"step": "flip", "probabilty": 0.5},
        {"step": "flip", "probability": 1.5},
        {"step": "resize", "short": []},
        {"step": "resize", "short": [0]},
        {"step": "flop"},
        {"probability": 0.5},
        {"step": "choice", "options": [[{"step": "flop"}]]},
    ],
)
def test_a_step_that_is_none_is_refused(values):
    with pytest.raises(ValidationError):
        TypeAdapter(steps.Step).validate_python(values)


def test_every_class_of_step_is_tested_and_named_once():
    assert set(ONE_OF_EACH) == set(steps.STEPS)
    assert len({kind.step for kind in steps.STEPS}) == len(steps.STEPS)
