"""Scores that mean what they say: what is fitted, into which weights it goes, and who has none."""

import pytest
import torch
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.errors import InvalidInput
from refseg.evaluation.run import evaluate
from refseg.models import catalog
from refseg.predictor import Predictor, load
from refseg.training.calibration import calibrate

FEW = ScenesSpec(split="train", seed=900, count=24, phrases=4, registers={"app": 0.6, "none": 0.4})


def test_a_score_that_shouts_is_brought_down():
    model = load("scout", device="cpu").model
    model.rescale_score(0.1, 3.0)
    fitted = calibrate(model, [Scenes(FEW)])
    assert fitted.phrases == 96
    assert fitted.scaling.temperature > 2
    assert fitted.ece_after < fitted.ece_before


def test_the_score_to_answer_from_keeps_the_share_that_was_asked_for():
    model = load("scout", device="cpu").model
    fitted = calibrate(model, [Scenes(FEW)], keep=0.8)
    assert model.config.existence_threshold == fitted.threshold
    kept = evaluate(Predictor(model, device="cpu"), Scenes(FEW)).score().kept
    assert 0.75 <= kept <= 0.9


@pytest.mark.parametrize(("family", "keep"), [("scout", 1.5), ("vlt", 0.9)])
def test_a_share_that_cannot_be_kept_is_refused(family, keep):
    with pytest.raises(InvalidInput, match="to keep was asked"):
        calibrate(catalog.build(family, "debug"), [Scenes(FEW)], keep=keep)


def test_the_weights_take_temperature_and_bias_in():
    torch.manual_seed(0)
    predictor = Predictor(catalog.build("scout", "debug").eval(), device="cpu")
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    before = torch.tensor(predictor(frame, ["red star"])[0].score).logit()
    predictor.model.rescale_score(2.0, -0.5)
    after = torch.tensor(predictor(frame, ["red star"])[0].score).logit()
    torch.testing.assert_close(after, before / 2 - 0.5, atol=1e-5, rtol=1e-5)


def test_a_family_without_such_a_score_says_so_at_once():
    with pytest.raises(InvalidInput, match="no score that its weights"):
        calibrate(catalog.build("vlt", "debug"), [Scenes(FEW)])


def test_the_command_writes_a_checkpoint_that_says_how_it_was_made(tmp_path):
    load_verbs()
    out = tmp_path / "honest.safetensors"
    words = ["calibrate", "scout", "scenes", "--count", "60", "--out", str(out)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "temperature" in told.output
    assert load(out, device="cpu").model.config == load("scout", device="cpu").model.config
    again = CliRunner().invoke(app, words)
    assert "exists" in str(again.exception)
