import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refseg.errors import InvalidInput
from refseg.framing import (
    FrameSpec,
    enlarge_canvas,
    masks_to_canvas,
    masks_to_source,
    place,
    place_frames,
    shortest_side,
    upsample_to_canvas,
    valid_area,
)
from refseg.structures import Placement

sides = st.one_of(st.integers(1, 8), st.integers(1, 150))
sizes = st.tuples(sides, sides)
filters = st.sampled_from(["bilinear", "antialias", "bicubic"])
specs = st.one_of(
    st.builds(FrameSpec, fit=st.just("stretch"), size=st.integers(1, 90), filter=filters),
    st.builds(FrameSpec, fit=st.just("letterbox"), size=st.integers(1, 90), filter=filters),
    st.builds(
        FrameSpec,
        fit=st.just("shortest"),
        size=st.integers(1, 60),
        longest=st.one_of(st.none(), st.integers(60, 120)),
        divisor=st.sampled_from([1, 2, 32]),
        filter=filters,
    ),
)
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def box_mask(size, top, left, bottom, right):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


def there_and_back(mask, placement):
    return masks_to_source(masks_to_canvas(mask, placement).float(), placement) > 0.5


# ---- where a frame lies


@given(sizes, specs)
def test_the_content_lies_inside_the_canvas(source, spec):
    placement = place(source, spec)
    for side in (0, 1):
        assert placement.offset[side] >= 0 and placement.content[side] >= 1
        assert placement.offset[side] + placement.content[side] <= placement.canvas[side]
    assert placement.source == source


@given(sizes, st.integers(1, 100))
def test_a_letterbox_touches_two_opposite_sides_and_is_centred(source, size):
    placement = place(source, FrameSpec("letterbox", size))
    assert placement.canvas == (size, size)
    assert max(placement.content) >= size - 1  # one less where the scale is no exact binary fraction
    for side in (0, 1):
        before = placement.offset[side]
        after = size - placement.content[side] - before
        assert after - before in (0, 1)


@given(sizes, st.integers(1, 60), st.sampled_from([1, 2, 32]))
def test_padding_of_the_shortest_rule_is_right_and_below_and_less_than_the_divisor(source, size, divisor):
    placement = place(source, FrameSpec("shortest", size, divisor=divisor))
    assert placement.offset == (0, 0)
    for canvas, content in zip(placement.canvas, placement.content, strict=True):
        assert canvas % divisor == 0 and canvas - content < divisor


# Worked by hand from the rule: the short side becomes 360; the long side at most 640.
@pytest.mark.parametrize(
    ("source", "content"),
    [
        ((720, 1280), (360, 640)),
        ((480, 640), (360, 480)),
        ((640, 480), (480, 360)),
        ((360, 500), (360, 500)),  # has the size already
        ((100, 100), (360, 360)),
        ((480, 1000), (307, 639)),  # 640 * 480 / 1000 = 307.2 -> 307; 307 * 1000 / 480 = 639.58 -> 639
        ((1, 1), (360, 360)),
    ],
)
def test_the_shortest_side_rule_by_hand(source, content):
    assert shortest_side(source, 360, 640) == content


@given(sides, st.integers(1, 5000), st.integers(1, 60), st.integers(60, 120))
def test_the_long_side_is_bounded_however_thin_the_picture(short, long, size, longest):
    assume(short <= long)
    content = shortest_side((short, long), size, longest)
    # The short side is rounded first, at most half a pixel up, and the long one follows it.
    assert content[1] <= longest * content[0] / (content[0] - 0.5)


@given(sizes, st.integers(1, 60), st.one_of(st.none(), st.integers(60, 120)))
def test_a_turned_picture_gets_the_turned_size(source, size, longest):
    assert shortest_side(source[::-1], size, longest) == shortest_side(source, size, longest)[::-1]


@pytest.mark.parametrize("source", [(0, 5), (5, 0), (0, 0)])
def test_a_frame_without_area_is_refused(source):
    with pytest.raises(InvalidInput, match="no area"):
        place(source, FrameSpec("stretch", 32))


# ---- frames onto the canvas


@settings(deadline=None, max_examples=60)
@given(sizes, specs, st.integers(1, 2))
def test_frames_of_one_colour_fill_the_content_and_nothing_else(source, spec, count):
    plain = FrameSpec(spec.fit, spec.size, spec.longest, spec.divisor, spec.filter, fill=-7.0, **PLAIN)
    frames = torch.full((count, 3, *source), 204, dtype=torch.uint8)
    canvas, placement = place_frames(frames, plain)
    assert canvas.shape == (count, 3, *placement.canvas) and canvas.dtype == torch.float32
    valid = valid_area(placement)
    assert (canvas[..., valid] - 0.8).abs().max() < 1e-6
    assert (canvas[..., ~valid] == -7).all()
    assert valid.sum() == placement.content[0] * placement.content[1]


def test_normalisation_is_value_minus_mean_over_std():
    frames = torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    canvas, _ = place_frames(frames, FrameSpec("stretch", 2, mean=(0.1, 0.2, 0.5), std=(0.1, 0.2, 0.25)))
    assert torch.allclose(canvas[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0]))


@pytest.mark.parametrize("rule", ["antialias", "bilinear", "bicubic"])
def test_the_given_frames_are_not_changed(rule):
    frames = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    before = frames.clone()
    place_frames(frames, FrameSpec("stretch", 5, filter=rule))
    place_frames(frames, FrameSpec("shortest", 5, filter=rule))
    assert torch.equal(frames, before)


def test_antialias_averages_all_pixels_when_it_shrinks():
    """A fine chessboard becomes grey; point sampling would keep it black or white."""
    board = torch.from_numpy(np.indices((64, 64)).sum(0) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    canvas, _ = place_frames(board, FrameSpec("stretch", 8, filter="antialias", **PLAIN))
    assert (canvas - 0.5).abs().max() < 0.05


# ---- masks there and back


@settings(deadline=None, max_examples=150)
@given(sizes, specs, st.booleans())
def test_a_full_or_empty_mask_stays_so(source, spec, full):
    placement = place(source, spec)
    mask = torch.full((1, *source), full)
    on_canvas = masks_to_canvas(mask, placement)
    assert torch.equal(on_canvas[0], valid_area(placement) & full)
    assert torch.equal(there_and_back(mask, placement), mask)


@settings(deadline=None, max_examples=150)
@given(st.data(), sizes, st.integers(2, 4), st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_mask_enlarged_by_a_whole_factor_comes_back_exactly(data, source, factor, padding):
    content = (source[0] * factor, source[1] * factor)
    canvas = (content[0] + 2 * padding[0] + 1, content[1] + padding[1] + 3)
    placement = Placement(source, content, padding, canvas)
    bits = data.draw(st.integers(0, 2 ** min(source[0] * source[1], 60) - 1))
    mask = torch.tensor([(bits >> (n % 60)) & 1 for n in range(source[0] * source[1])], dtype=torch.bool)
    mask = mask.view(1, *source)
    assert torch.equal(there_and_back(mask, placement), mask)


@settings(deadline=None, max_examples=150)
@given(st.data(), sizes, specs)
def test_a_rectangle_moves_by_at_most_one_pixel_of_the_coarser_grid(data, source, spec):
    placement = place(source, spec)
    coarse = [max(1.0, s / c) for s, c in zip(source, placement.content, strict=True)]
    assume(all(side >= 4 * grid for side, grid in zip(source, coarse, strict=True)))
    # Thinner things than two cells of the coarser grid may vanish between its points.
    spans = [
        data.draw(st.integers(int(2 * grid) + 1, side)) for side, grid in zip(source, coarse, strict=True)
    ]
    starts = [data.draw(st.integers(0, side - span)) for side, span in zip(source, spans, strict=True)]
    ends = [start + span for start, span in zip(starts, spans, strict=True)]
    back = there_and_back(box_mask(source, *starts, *ends), placement)[0]
    for axis in (0, 1):
        seen = torch.where(back.any(1 - axis))[0]
        assert abs(int(seen[0]) - starts[axis]) <= coarse[axis]
        assert abs(int(seen[-1]) + 1 - ends[axis]) <= coarse[axis]


@settings(deadline=None, max_examples=80)
@given(st.data(), sizes, specs)
def test_a_mask_lies_on_the_canvas_where_its_object_lies(data, source, spec):
    """A white rectangle, placed as a frame and as a mask, agree except near the rectangle's edge."""
    plain = FrameSpec(spec.fit, spec.size, spec.longest, spec.divisor, "bilinear", **PLAIN)
    top, left = (data.draw(st.integers(0, side - 1)) for side in source)
    bottom, right = data.draw(st.integers(top + 1, source[0])), data.draw(st.integers(left + 1, source[1]))
    mask = box_mask(source, top, left, bottom, right)
    frames = (mask[:, None] * 255).expand(1, 3, *source).to(torch.uint8)
    canvas, placement = place_frames(frames, plain)
    placed = masks_to_canvas(mask, placement)[0]
    differs = (canvas[0, 0] > 0.5) != placed
    rows = {round(placement.offset[0] + edge * placement.content[0] / source[0]) for edge in (top, bottom)}
    columns = {round(placement.offset[1] + edge * placement.content[1] / source[1]) for edge in (left, right)}
    # Interpolation rounds corners off by up to half a source pixel, as large as that is on the canvas.
    far = [1.5 + 0.5 * c / s for c, s in zip(placement.content, source, strict=True)]
    for row, column in differs.nonzero().tolist():
        near_row = min(abs(row + 0.5 - edge) for edge in rows) <= far[0]
        near_column = min(abs(column + 0.5 - edge) for edge in columns) <= far[1]
        assert near_row or near_column


@pytest.mark.parametrize("lead", [(), (3,), (0,), (2, 3), (0, 4)])
def test_masks_of_any_number_of_phrases_and_frames_are_placed(lead):
    placement = place((5, 9), FrameSpec("letterbox", 16))
    placed = masks_to_canvas(torch.ones(*lead, 5, 9, dtype=torch.bool), placement)
    assert placed.shape == (*lead, 16, 16)
    assert bool((placed == valid_area(placement)).all())


def test_padding_never_bleeds_into_the_source():
    """Logits that are certain of the padding say nothing about the frame."""
    placement = Placement((7, 11), (5, 9), (3, 2), (16, 16))
    logits = torch.where(valid_area(placement), -20.0, 20.0)[None]
    assert (
        masks_to_source(logits, placement) + 20
    ).abs().max() < 1e-4  # float32 weights sum to one within 1e-7


@given(sizes, specs)
@settings(deadline=None, max_examples=60)
def test_masks_come_back_at_the_size_of_the_source_for_any_number_of_frames(source, spec):
    placement = place(source, spec)
    for count in (1, 3):
        assert masks_to_source(torch.zeros(count, *placement.canvas), placement).shape == (count, *source)


def test_content_that_does_not_fit_is_refused():
    placement = Placement((10, 10), (10, 10), (0, 0), (12, 12))
    with pytest.raises(InvalidInput, match="does not fit"):
        masks_to_source(torch.zeros(1, 9, 12), placement)


def test_upsampling_of_a_ramp_follows_pixel_centres():
    """Two cells 0 and 4 become eight pixels: the value at (i + 0.5) / 4 - 0.5 cells, worked by hand."""
    logits = torch.tensor([[[0.0, 4.0]]])
    wanted = torch.tensor([0.0, 0.0, 0.5, 1.5, 2.5, 3.5, 4.0, 4.0])
    assert torch.allclose(upsample_to_canvas(logits, (1, 8))[0, 0], wanted)


# ---- a larger canvas


@given(sizes, specs, st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_larger_canvas_changes_nothing_of_the_answer(source, spec, more_rows, more_columns):
    placement = place(source, spec)
    scores = torch.rand(1, *placement.canvas, generator=torch.Generator().manual_seed(0))
    canvas = (placement.canvas[0] + more_rows, placement.canvas[1] + more_columns)
    enlarged, moved = enlarge_canvas(scores, placement, canvas, fill=9.0)
    assert enlarged.shape[-2:] == canvas and moved.canvas == canvas
    assert torch.equal(masks_to_source(enlarged, moved), masks_to_source(scores, placement))


def test_a_canvas_is_never_made_smaller():
    placement = place((8, 8), FrameSpec("stretch", 8))
    with pytest.raises(AssertionError):
        enlarge_canvas(torch.zeros(1, 8, 8), placement, (7, 9), fill=0.0)


@pytest.mark.parametrize(
    ("source", "content"),
    [((75, 101), (480, 480)), ((96, 64), (480, 480)), ((640, 427), (480, 480)), ((7, 5), (3, 9))],
)
def test_masks_are_placed_where_pillow_places_them(source, content):
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 1, *source, generator=generator) > 0.5
    placed = masks_to_canvas(masks, Placement(source, content, (0, 0), content))
    for mask, ours in zip(masks[:, 0], placed[:, 0], strict=True):
        theirs = Image.fromarray(mask.numpy().astype("uint8")).resize(content[::-1], Image.Resampling.NEAREST)
        assert torch.equal(ours, torch.from_numpy(np.array(theirs)).bool())


def test_masks_of_bicubic_frames_are_resized_bicubically_and_stay_soft():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[:, :, 3:] = True
    placement = place((4, 6), FrameSpec("letterbox", 12, filter="bicubic"))
    soft = masks_to_canvas(mask, placement, "bicubic")
    assert soft.shape == (1, 12, 12)
    assert soft.dtype == torch.float32
    row = soft[0, 6]
    assert row[:4].tolist() == [0.0] * 4  # what the filter puts below zero is cut off
    assert row[8:].tolist() == [1.0] * 4
    assert 0 < row[5] < 0.5 < row[6] < 1
    assert not soft[0, :2].any()  # padding
