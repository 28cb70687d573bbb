"""What is special to ReferFormer: what inference leaves out changes no answer."""

import dataclasses

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.referformer.config import VARIANTS
from refseg.structures import Clips

PHRASES = ["a dog", "the left cat"]


def build(**changes):
    torch.manual_seed(1)
    model = catalog.build("referformer", "debug", **changes).eval()
    for head in model.decoder.box_heads:  # boxes that move, so that references differ by layer and frame
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return model


def clips(*, frames=3, size=(45, 70), target_frames=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, frames, 3, *size, generator=generator)
    valid = torch.ones(2, *size, dtype=torch.bool)
    valid[1, :, 50:] = False
    pixels[1, ..., 50:] = 0
    return Clips(pixels, valid, torch.tensor([list(size), [size[0], 50]]), target_frames)


def ask(model, pictures, *, detail, phrases=PHRASES):
    model.config = dataclasses.replace(model.config, detail=detail)
    return model.segment(model.encode_visual(pictures), model.encode_text(model.tokenize(phrases)))


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{}, {"refines_boxes": False}, {"has_relative_coordinates": False}, {"num_dynamic_layers": 2}]
)
def test_folding_the_last_convolution_changes_no_mask(changes):
    model = build(**changes)
    brief, whole = (ask(model, clips(), detail=detail) for detail in ("candidates", "layers"))
    torch.testing.assert_close(brief.mask_logits, whole.mask_logits, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_chosen_candidate_alone_is_the_one_chosen_among_all():
    model = build(num_classes=3)
    torch.nn.init.normal_(model.decoder.class_heads[-1].weight)
    alone, among = (ask(model, clips(), detail=detail) for detail in ("chosen", "candidates"))
    query, score = model.choose(among)
    assert alone.mask_logits.shape[1] == 1
    rows = torch.arange(2)
    torch.testing.assert_close(alone.mask_logits[:, 0], among.mask_logits[rows, query], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(alone.boxes[:, 0], among.boxes[rows, query])
    torch.testing.assert_close(model.choose(alone)[1], score)


def test_frame_by_frame_without_gradients_equals_all_at_once_with_them():
    model = build()
    with torch.no_grad():
        stepwise = ask(model, clips(), detail="layers")
    together = ask(model, clips(), detail="layers")
    torch.testing.assert_close(stepwise.mask_logits, together.mask_logits.detach(), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_a_candidate_is_chosen_once_for_the_whole_clip():
    model = build()
    logits = torch.tensor([[3.0, -9.0], [1.0, 1.0], [-9.0, 3.5]]).view(1, 3, 2, 1)  # [P, Q, T, K]
    output = dataclasses.replace(ask(model, clips(), detail="candidates"), class_logits=logits)
    query, score = model.choose(output)
    assert query.tolist() == [1]
    assert score.item() == pytest.approx(0.7311, abs=1e-4)  # sigmoid(1), in both frames


@torch.no_grad()
def test_frames_that_are_not_segmented_tell_nothing():
    model = build()
    asked = ask(model, clips(target_frames=torch.tensor([[1], [2]])), detail="candidates")
    single = clips()
    single.pixels = torch.stack([single.pixels[0, 1:2], single.pixels[1, 2:3]])
    torch.testing.assert_close(asked.mask_logits, ask(model, single, detail="candidates").mask_logits)


def test_training_answers_with_every_layer():
    model = build().train()
    output = ask(model, clips(), detail="chosen")
    assert output.mask_logits.shape[1] == model.config.num_queries
    assert len(output.earlier) == model.config.num_decoder_layers - 1


def test_without_supervision_of_every_layer_the_last_answers_alone():
    model = build(supervises_every_layer=False).train()
    assert ask(model, clips(), detail="chosen").earlier == ()


def test_references_beyond_the_first_layer_learn_nothing_with_refinement():
    model = build()
    output = ask(model, clips(), detail="layers")
    output.boxes.sum().backward()
    assert (
        model.decoder.box_heads[0].layers[-1].bias.grad is None
    )  # its box reached the last layer as a number
    assert model.decoder.box_heads[-1].layers[-1].bias.grad is not None


def test_heads_are_shared_without_refinement():
    assert len(build(refines_boxes=False).decoder.class_heads) == 1


def test_a_frozen_text_tower_gets_no_gradient():
    model = build(trains_text=False)
    ask(model, clips(), detail="layers").mask_logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.text_tower.parameters())


@torch.no_grad()
def test_very_small_pictures_are_segmented():
    output = ask(build(), clips(size=(20, 60)), detail="chosen")
    assert output.mask_logits.shape[-2:] == (5, 15)


def test_the_tokenizer_travels_with_the_model():
    model, other = build(), build()
    other.load_extra_state(model.extra_state())
    assert torch.equal(model.tokenize(PHRASES).values, other.tokenize(PHRASES).values)


def test_a_phrase_that_is_too_long_is_refused():
    with pytest.raises(InvalidInput, match="at most 126"):
        build().tokenize(["x" * 200])


def test_published_parameter_counts():
    counts = {
        "resnet50": 176_262_207,
        "resnet101": 195_202_111,
        "swin-t": 176_764_473,
        "swin-s": 198_082_377,
        "swin-b": 236_701_495,
        "swin-l-image": 346_380_051,
        "video-swin-t-a2d": 177_088_101,
        "video-swin-s": 198_746_709,
        "video-swin-b": 237_587_271,
    }
    for variant, count in counts.items():
        with torch.device("meta"):
            model = catalog.build("referformer", variant)
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_variants_differ_where_they_say():
    assert VARIANTS["resnet101"].backbone.blocks == (3, 4, 23, 3)
    assert VARIANTS["resnet50-image"].protocol == "image"
    assert VARIANTS["resnet50-image"].frame.divisor == 32
