"""What VPD tells of its answers."""

import torch

from refseg.models import catalog
from refseg.predictor import Predictor


def test_every_piece_of_the_phrase_has_the_map_that_the_head_reads():
    torch.manual_seed(0)
    predictor = Predictor(catalog.build("vpd", "debug"))
    clip = predictor.encode(torch.randint(0, 256, (2, 3, 61, 75), dtype=torch.uint8))
    (told,) = predictor.explain(clip, ["a dog"], [1])
    pieces = [piece for piece in predictor.model.tokenizer.pieces("a dog") if piece]
    assert [one.title for one in told.maps] == pieces
    assert "".join(pieces) == "adog"
    assert all(one.values.shape == (1, 61, 75) for one in told.maps)
    with torch.inference_mode():
        text = predictor.model.encode_text(predictor.model.tokenize(["a dog"]))
        _, maps = predictor.model.unet(clip.visual.maps[0][0, 1:], text.tokens)
        first = predictor.model.explain(["a dog"], clip.visual, text, None)[0].maps[0]
    torch.testing.assert_close(first.values[1], maps[16][0, 1])  # after the token that starts every phrase
