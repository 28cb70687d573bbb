"""Clips in which motion alone tells which thing is meant: chosen motions, twins, and phrases about twins."""

import itertools

import pytest
import torch

from data.scenes.helpers import shapes, thing
from refseg.data.frame_sampling import DrawnFrames, SampledClips
from refseg.data.scenes.dataset import ScenesSpec
from refseg.data.scenes.motion import MOTIONS, Moves, draw_path
from refseg.data.scenes.rng import Rng
from refseg.errors import InvalidInput, UnknownName

WAYS = ("left", "right", "up", "down")


def twins(**changes):
    values = {"frames": 4, "phrases": 2, "registers": {"mot": 1.0}, "motions": WAYS, "twins": 1.0}
    return shapes(**(values | changes))


def travelled(ids, number):
    """How far thing `number` got from the first to the last frame, in pixels right and down."""
    places = [torch.nonzero(frame == number).float().mean(0) for frame in (ids[0], ids[-1])]
    down, right = (places[1] - places[0]).tolist()
    return right, down


def test_twins_look_alike_and_move_in_different_ways():
    scenes = twins()
    for index in range(25):
        first, second, *others = scenes.scene(index).things
        assert len(others) <= 1
        for part in ("noun", "sprite", "colour", "texture", "rgb", "pattern", "is_mirrored"):
            assert getattr(first, part) == getattr(second, part)
        assert first.motion != second.motion


def test_a_phrase_about_a_twin_is_marked_as_one_whose_noun_fits_several():
    scenes, marked = twins(phrases=4), 0
    for index in range(40):
        example = scenes[index]
        for masks, register in zip(example.masks, example.registers, strict=True):
            (number,) = example.things.ids[masks].unique().tolist()
            assert register == "mot2" or number > 2
            marked += register == "mot2"
    assert marked > 100


def test_the_twin_that_is_meant_is_the_one_that_moves_so():
    scenes, checked = twins(size=96), 0
    for index in range(40):
        example = scenes[index]
        ids = example.things.ids
        for phrase, masks in zip(example.phrases, example.masks, strict=True):
            (number,) = ids[masks].unique().tolist()
            right, down = travelled(ids, number)
            ways = {"left": -right, "right": right, "up": down * -1, "down": down}
            (way,) = (
                way for way in WAYS if way in phrase.replace("upwards", "up").replace("downwards", "down")
            )
            if float(masks.flatten(1).sum(1).min()) > 0.8 * float(
                masks.flatten(1).sum(1).max()
            ):  # hardly covered
                assert max(ways, key=ways.get) == way, (index, phrase)
                checked += 1
    assert checked > 30


def test_only_the_motions_that_were_asked_for_are_shown_and_spoken_of():
    scenes = shapes(frames=3, registers={"mot": 1.0}, motions=("growing", "still"), phrases=2)
    seen = {thing.motion for index in range(15) for thing in scenes.scene(index).things}
    assert seen == {"growing", "still"}
    said = {
        said.template for index in range(15) for said in scenes.scene(index).said if said.register == "mot"
    }
    assert said <= {"motion growing", "motion still"}


def test_a_world_of_one_motion_moves_everything_so():
    path = draw_path(Rng(1), thing("dog", 0.5, 0.5), Moves(("still",)))
    assert path.motion == "still"


@pytest.mark.parametrize("taken", WAYS)
def test_a_taken_motion_is_not_drawn(taken):
    drawn = {draw_path(Rng(s), thing("dog", 0.5, 0.5), Moves(WAYS), but=taken).motion for s in range(60)}
    assert drawn == set(WAYS) - {taken}


def test_one_frame_of_a_clip_keeps_the_phrase_about_its_motion():
    scenes = twins()
    sampled = SampledClips(scenes, DrawnFrames(frames=1))
    assert len(sampled) == len(scenes)
    whole = scenes[3]
    drawn = [sampled.draw(3, torch.Generator().manual_seed(seed)) for seed in range(12)]
    places = set()
    for one in drawn:
        assert one.frames.shape == (1, 3, 64, 64)
        assert one.phrases == whole.phrases
        (place,) = (p for p in range(4) if torch.equal(one.frames[0], whole.frames[p]))
        assert torch.equal(one.masks, whole.masks[:, [place]])
        places.add(place)
    assert len(places) > 1


def test_the_motions_of_a_plain_clip_are_those_of_a_world_that_names_all_of_them():
    named = shapes(frames=3, motions=tuple(MOTIONS), twins=0.0)
    for one, other in itertools.islice(zip(shapes(frames=3), named, strict=True), 4):
        assert torch.equal(one.frames, other.frames)
        assert one.phrases == other.phrases


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"twins": 1.5}, "from 0 to 1"),
        ({"motions": ()}, "at least one"),
        ({"motions": ("left",)}, "two where twins"),
        ({"frames": 1, "registers": {"mot": 1.0}, "motions": None, "twins": 0.0}, "frames >= 2"),
        ({"frames": 1, "registers": {"app": 1.0}}, "frames >= 2"),
    ],
)
def test_a_world_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        twins(**wrong)


def test_an_unknown_motion_or_field_is_named_with_its_neighbours():
    with pytest.raises(UnknownName, match="'left'"):
        twins(motions=("lefft", "right"))
    with pytest.raises(UnknownName, match="'twins'"):
        ScenesSpec.of({"twinns": 1.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("twins", "all"),
        ("motions", "left"),
        ("registers", ["mot"]),
        ("size", 64.0),
        ("frames", True),
        ("split", 3),
    ],
)
def test_a_field_of_another_kind_is_refused(field, value):
    with pytest.raises(InvalidInput, match=f"{field} of scenes is"):
        ScenesSpec.of({field: value})
