"""What VLFormer tells of an answer: its candidates."""

import numpy as np
import torch

from refseg.media.draw_explanation import draw_explanation
from refseg.models import catalog
from refseg.predictor import Predictor


def test_every_candidate_is_shown_with_its_score_the_chosen_one_first():
    torch.manual_seed(0)
    predictor = Predictor(catalog.build("vlformer", "debug"), device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 61, 97, 3), dtype=np.uint8)
    clip = predictor.encode(frames)
    (told,) = predictor.explain(clip, ["a dog"], [1])
    (answer,) = predictor.segment(clip, ["a dog"])
    weights = [one.weight for one in told.maps]
    assert len(weights) == 5
    assert weights == sorted(weights, reverse=True)
    assert abs(weights[0] - answer.score) < 1e-6
    assert told.maps[0].title.endswith(", chosen")
    assert told.maps[0].values.shape[-2:] == (61, 97)
    agree = (told.maps[0].values[0] > 0.5) == answer.masks[1]
    assert agree.float().mean() > 0.97  # both resized, one before and one after the sigmoid
    sheet = draw_explanation(frames[1], answer.masks[1].numpy(), "a dog", told)
    assert sheet.height > 0
