"""Motion between frames: closed before training, blind to single frames, and learnt from what every cell shows."""

import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.scout.config import VARIANTS
from refseg.models.scout.family import FAMILY
from refseg.models.scout.motion import MotionBlock, MotionCue, beside, window
from refseg.models.scout.objectives import motion_labels
from refseg.structures import Example, Things

DEBUG = VARIANTS["debug"]


@pytest.fixture
def block():
    torch.manual_seed(0)
    return MotionBlock(8, 16, 2)


def test_one_frame_passes_as_it_is_even_after_training(block):
    torch.nn.init.normal_(block.out.weight)
    maps = torch.randn(3, 8, 12, 16)
    passed, concluded = block(maps, 1)
    assert passed is maps
    assert concluded is None


def test_before_training_clips_pass_unchanged_too(block):
    maps = torch.randn(2 * 3, 8, 12, 16)
    passed, concluded = block(maps, 3)
    assert torch.equal(passed, maps)
    assert concluded.shape == (6, 6 * 8, 16)


def test_every_part_learns_once_the_last_map_has_left_zero(block):
    torch.nn.init.normal_(block.out.weight)
    passed, _ = block(torch.randn(2 * 3, 8, 12, 16), 3)
    passed.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


def test_clips_of_a_batch_do_not_see_each_other(block):
    torch.nn.init.normal_(block.out.weight)
    maps = torch.randn(2 * 3, 8, 12, 16)
    both, _ = block(maps, 3)
    alone, _ = block(maps[3:], 3)
    torch.testing.assert_close(both[3:], alone)


@pytest.mark.parametrize(
    ("step", "expected"), [(1, [2, 3, 0]), (-1, [0, 1, 2]), (2, [3, 0, 0]), (-5, [0, 0, 0])]
)
def test_frames_beside_are_zero_beyond_the_ends(step, expected):
    frames = torch.tensor([[1.0, 2.0, 3.0]])
    assert beside(frames, step)[0].tolist() == expected


def test_a_window_holds_the_cells_around_and_knows_the_edge():
    places, is_inside = window((3, 4), 1, torch.device("cpu"))
    middle = 1 * 4 + 2
    assert places[middle].tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert is_inside[middle].all()
    assert is_inside[0].tolist() == [False, False, False, False, True, True, False, True, True]


def test_the_cue_marks_nothing_before_training_and_the_cells_it_means_after():
    torch.manual_seed(0)
    cue = MotionCue(4, 8, 6)
    maps, logits = torch.randn(2, 6, 4, 4), torch.full((2, 1, 2, 2), -20.0)
    logits[0, 0, 0, 1] = 20.0
    assert torch.equal(cue.mark(maps, logits), maps)
    torch.nn.init.ones_(cue.gain)
    added = cue.mark(maps, logits) - maps
    torch.testing.assert_close(added[0, 0, :2, 2:], torch.ones(2, 2))
    torch.testing.assert_close(added[0, 0, 2:], torch.zeros(2, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(added[1], torch.zeros(6, 4, 4), atol=1e-6, rtol=0)


def test_another_sentence_asks_another_question():
    torch.manual_seed(0)
    cue = MotionCue(4, 8, 6)
    concluded = torch.randn(1, 1, 4, 2, 2).expand(2, -1, -1, -1, -1)
    answers = cue(concluded, torch.randn(2, 8))
    assert answers.shape == (2, 1, 2, 2)
    assert not torch.allclose(answers[0], answers[1])


def moving_square(way, *, motions=True):
    """A clip of a white square that goes left (0) or right (1), three pixels a frame, among noise of its own."""
    generator = torch.Generator().manual_seed(way)
    frames = torch.randint(0, 60, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)
    ids = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for time in range(3):
        left = 24 + (1 if way else -1) * 6 * (time - 1)
        frames[time, :, 20:40, left : left + 20] = 250
        ids[time, 20:40, left : left + 20] = 1
    one = torch.tensor([0])
    return Example(
        f"square {way}",
        frames,
        ("star", "car"),
        (ids > 0).expand(2, -1, -1, -1),
        things=Things(ids, one, one, torch.tensor([way]) if motions else None),
    )


def test_thirty_steps_tell_left_from_right():
    torch.manual_seed(0)
    model = catalog.build("scout", "debug").train()
    batch = collate([moving_square(0), moving_square(1)] * 2, DEBUG.frame)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(30):
        terms = FAMILY.objectives["phrases_and_motion"](model, batch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    labels, weights = motion_labels(batch.targets, DEBUG)
    found = model.naming.motions(model.see(batch.clips)[1]).argmax(-1)
    shown = (labels > 0) & (weights > 0)
    assert set(labels[shown].tolist()) == {1, 2}
    assert (found == labels)[shown].float().mean() > 0.9


def test_pictures_have_the_terms_of_phrases_and_no_motion():
    model = catalog.build("scout", "debug").train()
    picture = moving_square(0)
    picture = Example("still", picture.frames[:1], picture.phrases, picture.masks[:, :1])
    terms = FAMILY.objectives["phrases_and_motion"](model, collate([picture], DEBUG.frame))
    assert terms["motion"] == terms["cue"] == 0
    assert {"mask", "dice", "box", "giou", "existence"} <= terms.keys()


def test_frames_are_segmented_with_the_motion_of_the_whole_clip():
    torch.manual_seed(0)
    model = catalog.build("scout", "debug").eval()
    torch.nn.init.normal_(model.motion.out.weight)
    clips = collate([moving_square(0)], DEBUG.frame).clips
    with torch.no_grad():
        everything = model.encode_visual(clips).maps[1]
        clips.target_frames = torch.tensor([[0, 2]])
        chosen = model.encode_visual(clips).maps[1]
    torch.testing.assert_close(chosen, everything[:, [0, 2]])


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (moving_square(0, motions=False), "how its things move"),
        (moving_square(DEBUG.num_motions), "num_motions"),
    ],
)
def test_data_that_do_not_tell_motion_are_refused(example, words):
    model = catalog.build("scout", "debug").train()
    with pytest.raises(InvalidInput, match=words):
        FAMILY.objectives["phrases_and_motion"](model, collate([example], DEBUG.frame))
