"""What VLFormer tells of its answers."""

import torch

from refseg.models import catalog
from refseg.predictor import Predictor


def test_every_candidate_is_told_and_the_surest_is_the_answer():
    torch.manual_seed(0)
    model = catalog.build("vlformer", "debug")
    predictor = Predictor(model)
    clip = predictor.encode(torch.randint(0, 256, (1, 3, 61, 75), dtype=torch.uint8))
    (told,) = predictor.explain(clip, ["a dog"])
    (answer,) = predictor.segment(clip, ["a dog"])
    weights = [one.weight for one in told.maps]
    assert len(weights) == model.config.num_queries
    assert max(weights) == answer.score
    assert all(
        one.values.shape == (1, 61, 75) and 0 <= one.values.min() <= one.values.max() <= 1
        for one in told.maps
    )
