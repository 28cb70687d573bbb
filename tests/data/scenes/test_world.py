import dataclasses
import itertools
import math

import numpy as np
import pytest

from data.scenes.helpers import needs_font, shapes, thing
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.layout import NUM_HELD_OUT_PAIRS, draw_things, held_out_pairs
from refseg.data.scenes.motion import MOTIONS, Path, at_time, draw_path, is_hidden
from refseg.data.scenes.render import (
    Finish,
    Patch,
    Skins,
    compose,
    develop,
    fitting_background,
    id_map,
    measure,
    warp_thing,
)
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.sprites import NO_SPRITES, load_atlas
from refseg.data.scenes.vocabulary import COLOURS, NOUNS, SHAPES

PLAIN = Finish(0.0, (0.0, 0.0), 0.0, 0, 1.0, 0.0)


def patch(side: int, top: int, left: int, grey: int) -> Patch:
    return Patch(np.full((side, side, 4), (grey, grey, grey, 255), np.uint8), top, left)


def pairs_shown(scenes: Scenes, count: int) -> set[tuple[int, int]]:
    return {
        (one.noun, one.colour)
        for index in range(count)
        for one in scenes.scene(index).things
        if one.colour >= 0
    }


def test_201_pairs_are_held_out_and_no_noun_loses_all_its_colours():
    held_out = held_out_pairs()
    assert len(held_out) == NUM_HELD_OUT_PAIRS == 201
    assert max(sum(noun == n for noun, _ in held_out) for n in range(len(NOUNS))) <= len(COLOURS) // 2
    assert len({NOUNS[noun] for noun, _ in held_out} & set(SHAPES)) >= 10


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_pairs_never_occur_where_training_looks(split):
    assert not pairs_shown(shapes(split=split, phrases=0), 100) & held_out_pairs()


def test_new_scenes_show_held_out_pairs_of_every_noun_that_has_one():
    nouns = {noun for noun, _ in held_out_pairs()}
    shown = {pair for pair in pairs_shown(shapes(split="new", phrases=0), 100) if pair[0] in nouns}
    assert shown
    assert shown <= held_out_pairs()


@needs_font
def test_new_renderings_are_shown_in_the_new_split_only():
    shown = {}
    sprites = load_atlas().sprites
    for split in ("train", "val", "new"):
        scenes = Scenes(ScenesSpec(size=32, phrases=0, split=split))
        things = [one for index in range(100) for one in scenes.scene(index).things]
        shown[split] = any(sprites[one.sprite].is_new for one in things)
    assert shown == {"train": False, "val": False, "new": True}


def test_a_held_out_pair_is_not_taught_to_mean_nothing():
    scenes = shapes(registers={"none": 1.0}, phrases=4, size=32)
    forbidden = {f"{COLOURS[colour]} {NOUNS[noun]}" for noun, colour in held_out_pairs()}
    said = " | ".join(phrase for index in range(100) for phrase in scenes[index].phrases)
    assert not [pair for pair in forbidden if f"{pair} " in said + " "]


def test_things_stand_inside_the_picture_and_apart():
    atlas = load_atlas(NO_SPRITES)
    for seed in range(60):
        things = draw_things(Rng(seed), atlas, "train")
        assert 2 <= len(things) <= 8
        assert all(0.5 * t.side < min(t.x, t.y, 1 - t.x, 1 - t.y) for t in things)
        for one, other in itertools.combinations(things, 2):
            distance = math.hypot(one.x - other.x, one.y - other.y)
            share = 1.05 if one.colour == other.colour else 0.62
            assert distance >= share * (one.side + other.side) / 2 - 1e-9


def test_later_things_cover_earlier_ones_and_areas_count_what_is_seen():
    things = [thing("square", 0.5, 0.5, colour="red"), thing("square", 0.5, 0.5, colour="blue")]
    ids, areas = id_map([patch(4, 0, 0, 9), patch(4, 2, 2, 9)], 8)
    measure(things, ids, areas)
    assert areas == [16, 16]
    assert [int((ids == n).sum()) for n in (1, 2)] == [12, 16]
    assert [t.visible for t in things] == [0.75, 1.0]
    assert [t.area for t in things] == [12 / 64, 16 / 64]


def test_half_opaque_pixels_belong_to_nothing():
    faint = Patch(np.full((3, 3, 4), 127, np.uint8), 1, 1)
    assert id_map([faint], 5)[0].max() == 0


def test_composing_leaves_the_background_exact_where_nothing_stands():
    background = np.arange(7 * 7 * 3, dtype=np.uint8).reshape(7, 7, 3)
    clear = Patch(np.zeros((7, 7, 4), np.uint8), 0, 0)
    assert (compose(background, [clear], np.zeros((7, 7), np.uint8), PLAIN) == background).all()


def test_an_opaque_thing_hides_what_is_behind_it():
    background = np.full((6, 6, 3), 200, np.uint8)
    canvas = compose(background, [patch(2, 1, 3, 77)], np.zeros((6, 6), np.uint8), PLAIN)
    assert (canvas[1:3, 3:5] == 77).all()
    assert (canvas == 200).sum() == 6 * 6 * 3 - 2 * 2 * 3


def test_a_half_transparent_thing_mixes_equally():
    background = np.full((3, 3, 3), 100, np.uint8)
    half = Patch(np.full((3, 3, 4), (128, 0, 0, 128), np.uint8), 0, 0)
    canvas = compose(background, [half], np.zeros((3, 3), np.uint8), PLAIN)
    assert canvas[0, 0].tolist() == [128 + 50, 50, 50]  # 100 * 127 / 255 = 49.8


def test_a_square_is_warped_to_its_place_and_size():
    atlas = load_atlas(NO_SPRITES)
    square = thing("square", 0.25, 0.5, colour="red", side=0.4, sprite=SHAPES.index("square"))
    square.rgb = (200.0, 10.0, 20.0)
    warped = warp_thing(square, Skins(atlas), 0, 101)
    ids, areas = id_map([warped], 101)
    rows, columns = np.nonzero(ids)
    drawn = 0.4 * 101 * 0.92  # the drawn square fills 92 % of its sprite
    assert areas[0] == pytest.approx(drawn**2, rel=0.04)
    assert columns.mean() == pytest.approx(0.25 * 101 - 0.5, abs=0.3)
    assert rows.mean() == pytest.approx(0.5 * 101 - 0.5, abs=0.3)
    assert warped.rgba[warped.rgba[..., 3] == 255][:, :3].tolist() == [[200, 10, 20]] * int(
        (warped.rgba[..., 3] == 255).sum()
    )


def test_a_mirrored_arrow_points_the_other_way():
    atlas = load_atlas(NO_SPRITES)
    arrow = thing("arrow", 0.5, 0.5, colour="red", side=0.8, sprite=SHAPES.index("arrow"))
    plain = id_map([warp_thing(arrow, Skins(atlas), 0, 64)], 64)[0]
    arrow.is_mirrored = True
    mirrored = id_map([warp_thing(arrow, Skins(atlas), 0, 64)], 64)[0]
    assert (mirrored == plain[:, ::-1]).mean() > 0.99
    assert (mirrored == plain).mean() < 0.9


def test_red_things_do_not_stand_before_red():
    atlas = dataclasses.replace(load_atlas(NO_SPRITES), photos=(np.full((50, 60, 3), (200, 0, 0), np.uint8),))
    red = thing("circle", 0.5, 0.5, colour="red", side=0.4)
    red.rgb = (205.0, 5.0, 5.0)
    for seed in range(30):
        background = fitting_background(Rng(seed), atlas, "train", [red], 64).astype(float)
        mean = background[20:44, 20:44].mean((0, 1))
        assert np.abs(mean - np.array(red.rgb)).sum() > 80


def test_developing_without_a_finish_changes_nothing():
    picture = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    assert (develop(Rng(0), picture, PLAIN) == picture).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_moving_things_stay_inside_the_picture(motion):
    for seed in range(200):
        one = thing("dog", 0.9, 0.1, side=0.3)
        path = draw_path(Rng(seed), one)
        if path.motion != motion:
            continue
        for step in (0.0, 0.3, 0.6, 1.0):
            now = at_time(one, path, step)
            assert now.side / 2 <= min(now.x, now.y, 1 - now.x, 1 - now.y) + 1e-9


def test_every_motion_does_what_it_says():
    one = thing("dog", 0.5, 0.5, side=0.2)
    last = {motion: at_time(one, Path(motion, 0.3), 1.0) for motion in MOTIONS}
    assert last["left"].x == pytest.approx(0.2)
    assert last["right"].x == pytest.approx(0.8)
    assert last["up"].y == pytest.approx(0.2)
    assert last["down"].y == pytest.approx(0.8)
    assert last["growing"].side == pytest.approx(0.38)
    assert last["shrinking"].side == pytest.approx(0.1)
    assert math.degrees(last["spinning"].turn) == pytest.approx(150)
    assert last["still"] == one
    assert [is_hidden(Path("blinking"), frame) for frame in range(4)] == [False, True, False, True]
    circle = [at_time(one, Path("circle"), step) for step in (0.0, 0.4, 0.8)]
    assert all(math.hypot(c.x - 0.5, c.y - 0.5) == pytest.approx(0.14) for c in circle)
