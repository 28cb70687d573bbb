"""What ReferFormer tells of its answers."""

import torch

from refseg.layers.attention import Attention
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


def test_every_letter_of_the_phrase_has_a_map_and_tokens_that_were_added_have_none():
    torch.manual_seed(0)
    predictor = Predictor(catalog.build("referformer", "debug"))
    clip = predictor.encode(torch.randint(0, 256, (1, 3, 61, 75), dtype=torch.uint8))
    (told,) = predictor.explain(clip, ["a dog"])
    assert [one.title for one in told.maps] == ["a", "d", "o", "g"]  # the debug tokenizer reads bytes
    assert all(one.values.shape == (1, 61, 75) for one in told.maps)


def test_shares_are_what_the_attention_mixes_by():
    attention = Attention(8, 2).eval()
    query, key = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    shares = attention.shares(query, key, valid)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3))
    assert not shares[1, :, 3:].any()
    one_head = Attention(8, 1).eval()
    shares = one_head.shares(query, key, valid)
    values = torch.nn.functional.linear(key, one_head.in_proj_weight[16:], one_head.in_proj_bias[16:])
    torch.testing.assert_close(one_head.out_proj(shares @ values), one_head(query, key, key, valid))
