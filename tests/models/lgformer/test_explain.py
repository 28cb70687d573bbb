"""What LGFormer tells of its answers."""

import torch

from refseg.models import catalog
from refseg.models.lgformer.fusion import Fusion
from refseg.predictor import Predictor


def test_every_piece_of_the_phrase_has_a_map_of_each_frame():
    torch.manual_seed(0)
    predictor = Predictor(catalog.build("lgformer", "debug"))
    clip = predictor.encode(torch.randint(0, 256, (2, 3, 61, 75), dtype=torch.uint8))
    first, last = predictor.explain(clip, ["a dog", "a dog"], [0, 1])
    pieces = [piece for piece in predictor.model._tokenizer.pieces("a dog") if piece]
    assert "".join(pieces) == "adog"
    assert [one.title for one in first.maps] == pieces
    assert all(one.values.shape == (1, 61, 75) for one in first.maps)
    assert not torch.equal(first.maps[0].values, last.maps[0].values)


@torch.no_grad()
def test_shares_are_what_pixels_are_told_by():
    torch.manual_seed(0)
    fusion = Fusion(8, 6, num_heads=2, dropout=0.0).eval()
    pixels, words = torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    shares = fusion.shares(pixels, words * valid[..., None], valid)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 5))
    assert not shares[1, 2:].any()
    queries = fusion.query(pixels)  # by the book: queries normalised over positions, scores by heads
    normal = (queries - queries.mean(1, keepdim=True)) / (
        queries.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    keys = fusion.key(words * valid[..., None]) * valid[..., None]
    by_head = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (normal, keys)]
    scores = by_head[1] @ by_head[0].transpose(-1, -2) * 8**-0.5
    expected = scores.masked_fill(~valid[:, None, :, None], -torch.inf).softmax(2).mean(1)
    torch.testing.assert_close(shares, expected)
