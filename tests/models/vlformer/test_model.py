"""What VLFormer does that other families do not, at toy width."""

import dataclasses

import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.vlformer.config import VARIANTS
from refseg.models.vlformer.decoder import Heads, Level, allowed_cells, mask_logits
from refseg.structures import Clips, Example, Output, Placement

SHORT, LONG = "a dog", "the small dog on the far left"


def model_of(**changes):
    torch.manual_seed(0)
    return catalog.build("vlformer", dataclasses.replace(VARIANTS["debug"], **changes))


def clips(frames=1, height=64, width=96, seed=0):
    pixels = torch.randn(1, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
    valid = torch.ones(1, height, width, dtype=torch.bool)
    return Clips(pixels, valid, torch.tensor([[height, width]]))


def answers(model, *phrases):
    """Mask logits [P, Q, T, h, w] of phrases asked together."""
    text = model.encode_text(model.tokenize(phrases))
    visual = model.encode_visual(clips()).rows(torch.zeros(len(phrases), dtype=torch.int64))
    return model.segment(visual, text).mask_logits


# Padded words


@torch.no_grad()
def test_published_training_raises_padded_words_instead_of_excluding_them():
    model = model_of().train()
    alone, beside = answers(model, SHORT)[0], answers(model, SHORT, LONG)[0]
    assert not torch.allclose(alone, beside, atol=1e-3)


@torch.no_grad()
def test_a_batch_without_padding_is_the_same_under_both_rules():
    raised, excluded = model_of().train(), model_of(padded_words="excluded").train()
    torch.testing.assert_close(answers(raised, SHORT, SHORT), answers(excluded, SHORT, SHORT))


@torch.no_grad()
def test_training_from_scratch_may_exclude_padded_words():
    model = model_of(padded_words="excluded").train()
    torch.testing.assert_close(answers(model, SHORT)[0], answers(model, SHORT, LONG)[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_prediction_excludes_padded_words_whatever_training_did():
    model = model_of().eval()
    torch.testing.assert_close(answers(model, SHORT)[0], answers(model, SHORT, LONG)[0], rtol=1e-3, atol=1e-4)


def test_padded_words_are_raised_by_one():
    fusion = model_of().train().pixel_decoder.fusions[0]
    valid = torch.tensor([[True, True, False]])
    assert fusion._seen(valid).tolist() == [[0.0, 0.0, 1.0]]


# Attention through masks


def level(*rows):
    """A level of one clip whose fine cells are `rows` of two channels."""
    fine = torch.tensor(rows)[None]
    return Level(fine, fine, fine)


def test_a_query_looks_where_its_mask_is_and_everywhere_where_it_has_none():
    kernels = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, -5.0]]])
    told = Heads(torch.zeros(1, 2, 2), kernels)
    allowed = allowed_cells(told, level((1.0, 2.0), (-1.0, 4.0), (0.0, 1.0)))
    assert allowed.tolist() == [[[True, False, True], [True, True, True]]]


def test_folded_masks_are_products_with_mask_features():
    model = model_of().eval()
    states, fine = torch.randn(2, 5, 64), torch.randn(6, 64, 3, 4)
    heads = model.decoder._heads(states, model.pixel_decoder.mask_features)
    embedding = model.decoder.mask_embed(model.decoder.norm(states))
    features = model.pixel_decoder.mask_features(fine).unflatten(0, (2, 3))
    expected = torch.einsum("pqc,ptchw->pqthw", embedding, features)
    torch.testing.assert_close(mask_logits(heads, fine), expected, rtol=1e-4, atol=1e-4)


def test_the_feed_forward_network_has_no_residual_connection():
    layer = model_of().eval().decoder.layers[0]
    with torch.no_grad():
        layer.linear2.weight.zero_()
        layer.linear2.bias.copy_(torch.arange(64.0))
        states = torch.randn(1, 5, 64)
        memory = level(*torch.randn(4, 64).tolist())
        from refseg.models.vlformer.pixel_decoder import Words

        spoken = Words(torch.randn(1, 2, 64), torch.randn(1, 2, 64), torch.ones(1, 2, dtype=torch.bool))
        out = layer(states, torch.zeros(5, 64), memory, spoken, None)
    expected = layer.hidden_norm(torch.arange(64.0)).expand(1, 5, 64)
    torch.testing.assert_close(out, expected)  # nothing of what came in is left


# Clips


@torch.no_grad()
def test_the_frames_of_a_clip_are_answered_by_one_query_and_see_each_other():
    model = model_of().eval()
    text = model.encode_text(model.tokenize([SHORT]))
    both = clips(frames=2)
    single = dataclasses.replace(both, pixels=both.pixels[:, :1])
    together = model.segment(model.encode_visual(both), text)
    alone = model.segment(model.encode_visual(single), text)
    assert together.mask_logits.shape[2] == 2
    assert together.class_logits.shape == alone.class_logits.shape == (1, 5, 1, 2)
    assert not torch.allclose(together.mask_logits[:, :, :1], alone.mask_logits, atol=1e-4)


@torch.no_grad()
def test_earlier_predictions_are_told_in_training_or_when_asked_for():
    model = model_of().eval()
    text, visual = model.encode_text(model.tokenize([SHORT])), model.encode_visual(clips())
    assert model.segment(visual, text).earlier == ()
    layers = VARIANTS["debug"].num_decoder_layers
    assert len(model.train().segment(visual, text).earlier) == layers


# Answers


def output(scores, logits):
    classes = torch.tensor(scores)[None, :, None]
    return Output(torch.tensor(logits)[None, :, None], classes)


def test_the_surest_candidate_is_chosen_and_a_mask_may_be_empty():
    model = model_of()
    told = output([[0.0, 0.0], [2.0, 0.0]], [[[9.0, 9.0]] * 2, [[-1.0, -1.0]] * 2])
    query, score = model.choose(told)
    assert query.tolist() == [1]
    assert score.item() == pytest.approx(torch.tensor([2.0, 0.0]).softmax(0)[0].item())
    [mask] = model.finish(told, [Placement((4, 4), (8, 8), (0, 0), (8, 8))])
    assert mask.shape == (1, 4, 4)
    assert not mask.any()


def test_a_threshold_of_scores_is_one_of_logits():
    model = model_of(threshold=0.9)
    told = output([[0.0, 0.0]], [[[2.0, 3.0], [2.0, 3.0]]])  # sigmoid(2) = 0.88, sigmoid(3) = 0.95
    [mask] = model.finish(told, [Placement((2, 2), (2, 2), (0, 0), (2, 2))])
    assert mask.tolist() == [[[False, True], [False, True]]]
    [scores] = model.soft_masks(told, [Placement((2, 2), (2, 2), (0, 0), (2, 2))])
    assert torch.equal(scores > 0.9, mask)


def test_a_phrase_longer_than_the_tower_is_refused():
    with pytest.raises(InvalidInput, match="reads at most 256"):
        model_of().tokenize(["x" * 300])


def test_frames_are_placed_by_the_rule_of_detectron2():
    frames = torch.zeros(1, 3, 99, 150, dtype=torch.uint8)
    batch = collate([Example("x", frames, ("a",))], VARIANTS["resnet50"].frame)
    assert batch.placements[0].content == (480, 727)  # 727.27; 727 either way
    assert batch.placements[0].canvas == (480, 736)
    wide = torch.zeros(1, 3, 60, 300, dtype=torch.uint8)
    batch = collate([Example("x", wide, ("a",))], VARIANTS["resnet50"].frame)
    assert batch.placements[0].content == (267, 1333)  # 266.6 rounds up
