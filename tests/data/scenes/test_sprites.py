import logging

import numpy as np
import pytest

from data.scenes.helpers import needs_font
from refseg.data.scenes import sprites
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.sprites import AUTO, NO_SPRITES, load_atlas, sprites_hash, write_atlas
from refseg.data.scenes.vocabulary import COLOURS, NOUNS, SHAPES, draw_colour, natural_colours, shades_of
from refseg.errors import InvalidInput


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder, and an atlas that nobody has loaded yet."""
    monkeypatch.setattr(sprites, "cache_folder", lambda: tmp_path / "cache")
    load_atlas.cache_clear()
    yield tmp_path / "cache"
    load_atlas.cache_clear()


@pytest.fixture
def no_font(own_cache, monkeypatch):
    monkeypatch.setattr(sprites, "find_font", lambda: None)
    monkeypatch.setattr(sprites, "read_photos", lambda names: ())


def test_without_font_and_photos_scenes_show_shapes_and_say_so_once(no_font, caplog):
    with caplog.at_level(logging.WARNING):
        scenes = Scenes(ScenesSpec(size=64, count=3))
        nouns = {NOUNS[noun] for example in scenes for noun in example.things.nouns.tolist()}
    assert nouns <= set(SHAPES)
    assert len([record for record in caplog.records if "emoji font" in record.message]) == 1


def test_without_font_the_world_is_the_world_of_shapes(no_font):
    one, other = (Scenes(ScenesSpec(size=64, sprites=source))[4] for source in (AUTO, NO_SPRITES))
    assert one.phrases == other.phrases
    assert bool((one.frames == other.frames).all())
    assert sprites_hash(AUTO) == sprites_hash(NO_SPRITES)


def test_without_scikit_image_there_are_no_photographs(monkeypatch):
    monkeypatch.setattr(sprites.importlib.util, "find_spec", lambda name: None)
    assert sprites.read_photos(sprites.TRAINING_PHOTOS) == ()


def test_photographs_are_read_from_installed_files_only():
    pytest.importorskip("skimage")
    found = sprites.read_photos(("brick.png", "surely_not_there.png"))
    assert len(found) == 1
    assert found[0].dtype == np.uint8
    assert max(found[0].shape[:2]) <= 400


def test_training_and_new_photographs_differ():
    assert not set(sprites.TRAINING_PHOTOS) & set(sprites.NEW_PHOTOS)


@needs_font
def test_every_rendering_of_the_font_shows_something():
    atlas = load_atlas()
    assert len(atlas.sprites) == len(SHAPES) + 164
    for level, side in enumerate((128, 64, 32)):
        assert atlas.pictures[level].shape == (175, side, side, 4)
        share = (atlas.pictures[level][..., 3] > 127).mean((1, 2))
        assert share.min() > 0.05  # the thinnest: a broom across its square


@needs_font
def test_sprites_are_premultiplied():
    for pictures in load_atlas().pictures:
        assert (pictures[..., :3] <= pictures[..., 3:]).all()


@needs_font
def test_an_apple_is_naturally_red_and_a_frog_green():
    atlas = load_atlas()
    natural = {
        word: {COLOURS[c] for c in atlas.sprites[atlas.of_noun[NOUNS.index(word)][0]].natural}
        for word in ("apple", "frog", "panda")
    }
    assert "red" in natural["apple"]
    assert "green" in natural["frog"]
    assert {"black", "white"} <= natural["panda"]


@needs_font
def test_the_cache_gives_the_same_sprites(own_cache):
    first = load_atlas()
    (kept,) = own_cache.iterdir()
    load_atlas.cache_clear()
    assert load_atlas().hash == first.hash
    assert list(own_cache.iterdir()) == [kept]


@needs_font
def test_a_broken_cache_file_is_drawn_anew(own_cache):
    first = load_atlas().hash
    (kept,) = own_cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    load_atlas.cache_clear()
    assert load_atlas().hash == first
    assert kept.stat().st_size > 1000


@needs_font
def test_a_cache_that_cannot_be_written_is_done_without(own_cache):
    own_cache.write_text("a file where a folder should be")
    assert load_atlas().has_sprites


@needs_font
def test_an_atlas_file_stands_in_for_font_and_photographs(tmp_path, monkeypatch):
    path = tmp_path / "atlas.npz"
    write_atlas(path)
    assert [file.name for file in tmp_path.iterdir()] == ["atlas.npz"]
    monkeypatch.setattr(sprites, "find_font", lambda: None)
    assert sprites_hash(str(path)) == sprites_hash(AUTO)
    one, other = (Scenes(ScenesSpec(size=64, sprites=source))[7] for source in (AUTO, str(path)))
    assert bool((one.frames == other.frames).all())


def test_a_file_that_is_no_atlas_is_refused(tmp_path):
    path = tmp_path / "atlas.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(InvalidInput, match="is not an atlas"):
        load_atlas(str(path))
    np.savez(path, pictures=np.zeros((2, 8, 8, 4), np.uint8))
    with pytest.raises(InvalidInput, match="is not an atlas"):
        load_atlas(str(path))


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_a_drawn_colour_is_recognised_as_itself(colour):
    for seed in range(25):
        picture = np.full((4, 4, 4), 255, np.uint8)
        picture[..., :3] = np.rint(draw_colour(Rng(seed), colour))
        seen = natural_colours(picture)
        assert colour in seen
        assert seen <= shades_of(colour)


def test_dice_give_the_same_numbers_for_the_same_seed():
    one, other = Rng(1, 2), Rng(1, 2)
    assert [one.roll() for _ in range(600)] == [other.roll() for _ in range(600)]
    assert Rng(1, 2).roll() != Rng(2, 1).roll()


def test_weighted_dice_follow_their_weights():
    dice = Rng(5)
    counts = np.bincount([dice.weighted((1.0, 0.0, 3.0)) for _ in range(4000)], minlength=3)
    assert counts[1] == 0
    assert counts[2] / counts.sum() == pytest.approx(0.75, abs=0.03)
