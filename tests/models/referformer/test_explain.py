"""What ReferFormer tells of its answers."""

import torch

from refseg.models import catalog
from refseg.predictor import Predictor


def test_the_chosen_querys_point_and_box_are_told_for_the_frame_asked_for():
    torch.manual_seed(0)
    model = catalog.build("referformer", "debug")
    for parameter in model.decoder.box_heads.parameters():  # a fresh head says the same of every frame
        torch.nn.init.normal_(parameter, std=0.1)
    predictor = Predictor(model)
    frames = torch.randint(0, 256, (3, 3, 61, 75), dtype=torch.uint8)
    clip = predictor.encode(frames)
    first, last = predictor.explain(clip, ["a dog", "a dog"], [0, 2])
    assert first.points.shape == (1, 2)
    assert not torch.equal(first.points, last.points)
    with torch.inference_mode():
        text = predictor.model.encode_text(predictor.model.tokenize(["a dog"]))
        output = predictor.model.segment(clip.visual, text)
    torch.testing.assert_close(last.boxes, output.boxes[0, 0, 2:3])  # the very box of the chosen candidate
    assert ((last.points >= 0) & (last.points <= 1)).all()
