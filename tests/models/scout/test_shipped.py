"""The checkpoint that comes with the package, on scenes that training never drew."""

import hashlib
from pathlib import Path

import pytest
import torch

import refseg
from refseg.checkpoints import native
from refseg.checkpoints.cards import read_cards
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.sprites import AUTO
from refseg.evaluation.run import evaluate
from refseg.models.scout.family import FAMILY
from refseg.predictor import load

ASSET = Path(refseg.__file__).parent / "assets" / "scout.safetensors"


@pytest.fixture(scope="module")
def predictor():
    return load("scout", device="cpu")


def test_the_file_is_the_one_the_card_names_and_weighs_at_most_twelve_megabytes():
    (card,) = read_cards(FAMILY.cards, FAMILY.name)
    content = ASSET.read_bytes()
    assert len(content) == card.source.bytes <= 12_000_000
    assert hashlib.sha256(content).hexdigest() == card.source.sha256


def test_what_comes_with_the_package_knows_every_word_of_the_scenes_world(predictor):
    scenes = Scenes(ScenesSpec(count=1))
    native.verify(ASSET)
    assert set(scenes.vocabulary) <= set(predictor.model.config.vocabulary)


def test_a_phrase_about_a_shape_is_answered_with_the_shape(predictor):
    frame = torch.full((3, 96, 96), 225, dtype=torch.uint8)
    frame[:, 20:48, 10:38] = torch.tensor([220, 30, 30], dtype=torch.uint8)[:, None, None]
    frame[:, 50:78, 56:84] = torch.tensor([30, 60, 220], dtype=torch.uint8)[:, None, None]
    red, blue = predictor(frame, ["the red square", "the blue square"])
    assert red.masks[0, 24:44, 14:34].float().mean() > 0.9
    assert not red.masks[0, 50:78, 56:84].any()
    assert blue.masks[0, 54:74, 60:80].float().mean() > 0.9
    assert not blue.masks[0, 20:48, 10:38].any()


@pytest.mark.parametrize(("sprites", "bar"), [("none", 0.7), (AUTO, 0.7)])
def test_forty_new_scenes_are_answered_well(predictor, sprites, bar):
    # The card says 80 for these registers together; forty scenes stray by a few points.
    scenes = Scenes(ScenesSpec(split="val", count=40, seed=11, sprites=sprites))
    assert evaluate(predictor, scenes).score("loc", "app", "rel").miou > bar


def test_phrases_of_other_scenes_score_near_chance(predictor):
    scenes = Scenes(ScenesSpec(split="val", count=40, seed=12))
    assert evaluate(predictor, scenes, shuffle_phrases=True).score().miou < 0.25


def test_motion_tells_two_of_a_kind_apart(predictor):
    # The card says J 82 for mot2; single frames gave 35.
    scenes = Scenes(ScenesSpec(split="val", count=24, seed=13, frames=6, registers={"mot": 1.0}))
    assert evaluate(predictor, scenes).score("mot2").miou > 0.6
