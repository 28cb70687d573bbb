"""What is special to LGFormer beside the contract and the parity cases."""

import dataclasses
import math

import pytest
import torch

from refseg.framing import FrameSpec, place
from refseg.models import catalog
from refseg.models.lgformer.config import VARIANTS
from refseg.models.lgformer.fusion import EPS, Fusion, _scales
from refseg.structures import Clips, Output, TextFeatures
from refseg.training.state import recompute_activations

DEBUG = VARIANTS["debug"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return catalog.build("lgformer", DEBUG).eval()


def clips(height=61, width=75, count=1, frames=1):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, frames, 3, height, width, generator=generator)
    return Clips(
        pixels, torch.ones(count, height, width, dtype=torch.bool), torch.tensor([[height, width]] * count)
    )


def answer(model, phrases, visual):
    return model.segment(visual, model.encode_text(model.tokenize(phrases)))


@torch.no_grad()
def test_training_tells_every_prediction_and_inference_the_last(model):
    visual = model.encode_visual(clips())
    brief = answer(model, ["a dog"], visual)
    model.config = dataclasses.replace(model.config, detail="layers")
    whole = answer(model, ["a dog"], visual)
    assert brief.earlier == ()
    assert len(whole.earlier) == DEBUG.num_decoder_layers
    torch.testing.assert_close(brief.mask_logits, whole.mask_logits, atol=1e-5, rtol=0)
    model.train()
    assert len(answer(model, ["a dog"], visual).earlier) == DEBUG.num_decoder_layers


@torch.no_grad()
def test_the_picture_is_seen_before_words_once_for_all_phrases(model):
    visual = model.encode_visual(clips(height=45, width=91))
    (level,) = visual.maps
    assert level.shape == (1, 1, 8, 12, 23)  # stride 4, rounded up


@torch.no_grad()
def test_words_beyond_the_cut_change_nothing(model):
    visual = model.encode_visual(clips())
    long = "x" * (DEBUG.max_tokens - 1)  # fills the rest after [CLS]
    one, other = (answer(model, [text], visual).mask_logits for text in (long, long + "yz"))
    assert torch.equal(one, other)


@torch.no_grad()
def test_frames_of_a_clip_are_answered_alone(model):
    clip = clips(frames=3)
    together = answer(model, ["a dog"], model.encode_visual(clip)).mask_logits
    for time in range(3):
        frame = dataclasses.replace(clip, pixels=clip.pixels[:, time : time + 1])
        alone = answer(model, ["a dog"], model.encode_visual(frame)).mask_logits
        torch.testing.assert_close(together[:, :, time : time + 1], alone, atol=1e-5, rtol=0)


def test_the_pixel_decoder_trains_in_float32_under_lower_precision(model):
    kinds = []
    for name in ("layers.0.feed_forward", "layer", "projections.0"):
        module = model.pixel_decoder.get_submodule(name)
        module.register_forward_hook(lambda _module, _given, told: kinds.append(told.dtype))
    seen = []
    model.backbone.swin.layers[1].blocks[0].mlp.register_forward_hook(
        lambda _module, _given, told: seen.append(told.dtype)
    )
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer(model, ["a dog"], model.encode_visual(clips()))
    assert set(kinds) == {torch.float32}
    assert set(seen) == {torch.bfloat16}


@torch.no_grad()
def test_lower_precision_reaches_the_bulk_of_the_work_alone(model):
    kinds = {}
    for name in (
        "backbone.swin.layers.1.blocks.0.mlp.fc1",
        "pixel_decoder.layers.0.feed_forward.linear1",
        "backbone.fusions.0.out_pixels",
        "text_tower.encoder.layer.0.output.dense",
        "query_decoder.head.layers.0",
    ):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _given, told, name=name: kinds.update({name.split(".")[-1]: told.dtype})
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer(model, ["a dog"], model.encode_visual(clips()))
    assert kinds["fc1"] == kinds["linear1"] == torch.bfloat16
    assert kinds["out_pixels"] == kinds["dense"] == kinds["0"] == torch.float32


@pytest.mark.parametrize("nearest", [True, False])
def test_logits_reach_the_source_by_the_way_of_the_variant(model, nearest):
    model.config = dataclasses.replace(model.config, enlarges_nearest=nearest)
    placement = place((2, 4), FrameSpec(fit="stretch", size=2))
    logits = torch.tensor([[[-1.0, 4.0], [-1.0, 4.0]]])
    told = model.enlarged(logits, placement, at="source")
    assert told.shape == (1, 2, 4)
    assert told[0, 0].tolist() == pytest.approx(
        [-1.0, -1.0 if nearest else 0.25, 4.0 if nearest else 2.75, 4.0]
    )


@torch.no_grad()
def test_a_logit_of_zero_is_background(model):
    placement = place((2, 2), FrameSpec(fit="stretch", size=2))
    logits = torch.tensor([[[[[0.0, 1.0], [-1.0, 0.0]]]]])
    assert model.finish(Output(logits), [placement])[0][0].tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "positions", [11, 400]
)  # fewer than channels, and so many that the covariance is used
@torch.no_grad()
def test_a_fusion_computes_what_its_steps_one_by_one_would(heads, positions):
    torch.manual_seed(0)
    fusion = Fusion(24, 16, num_heads=heads, dropout=0.0).eval()
    pixels, words = 3 * torch.randn(2, positions, 24) + 1, torch.randn(2, 5, 16)
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    given = fusion(pixels, words * valid[..., None], valid)
    for one, other in zip(given, plain_fusion(fusion, pixels, words * valid[..., None], valid), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def plain_fusion(fusion, pixels, words, valid):
    """The published steps, channels first, with normalisations where they are published."""
    gelu, real = torch.nn.functional.gelu, valid[..., None].float()

    def over_positions(x):
        return torch.nn.functional.instance_norm(x.transpose(1, 2), eps=EPS).transpose(1, 2)

    def by_head(x):
        return x.unflatten(-1, (fusion.num_heads, -1)).transpose(1, 2)

    query = by_head(over_positions(fusion.query(pixels)))
    scores = query @ by_head(fusion.key(words) * real).transpose(-1, -2) / math.sqrt(pixels.shape[-1])
    scores = scores + (1e4 * real - 1e4).transpose(1, 2)[:, None]
    mixed = scores.softmax(-1) @ by_head(fusion.word_value(words) * real)
    told = over_positions(fusion.mix_words(mixed.transpose(1, 2).flatten(2)))
    heard = scores.transpose(-1, -2).softmax(-1) @ by_head(over_positions(fusion.pixel_value(pixels)))
    heard = fusion.mix_pixels(heard.transpose(1, 2).flatten(2) * real) * real
    own_words = gelu(fusion.own_words(words)) * real
    joined = gelu(fusion.join_pixels(torch.cat([gelu(fusion.own_pixels(pixels)), told], -1)))
    spoken = gelu(fusion.join_words(torch.cat([own_words, heard], -1)))
    return gelu(fusion.out_pixels(joined)), gelu(fusion.out_words(spoken)) * real


def test_deviations_are_the_same_by_covariance_and_by_projection():
    torch.manual_seed(0)
    centred = torch.randn(2, 500, 8)
    centred = centred - centred.mean(1, keepdim=True)
    weight = torch.randn(12, 8)
    (by_covariance,) = _scales(centred, weight)
    projected = centred @ weight.t()
    expected = (projected.var(1, correction=0, keepdim=True) + EPS).rsqrt()
    torch.testing.assert_close(by_covariance, expected, rtol=1e-4, atol=0)


def test_first_values_are_the_published_ones(model):
    gate = model.backbone.gates[0].first.weight
    assert 0.01 < gate.std() < 0.03  # not zero
    attention = model.pixel_decoder.layers[0].attention
    assert attention.sampling_offsets.weight.eq(0).all()
    assert attention.attention_weights.weight.eq(0).all()
    bound = math.sqrt(6 / sum(model.pixel_decoder.key_embed.weight.shape))
    assert model.pixel_decoder.key_embed.weight.abs().max() <= bound
    assert model.pixel_decoder.mask_features.bias.eq(0).all()
    assert model.backbone.swin.layers[0].blocks[0].attn.qkv.bias.eq(0).all()


@torch.no_grad()
def test_words_that_are_padding_do_not_speak(model):
    visual = model.encode_visual(clips())
    text = model.encode_text(model.tokenize(["a dog"]))
    noisy = TextFeatures(text.tokens, text.valid)
    noisy.tokens = torch.where(text.valid[..., None], text.tokens, torch.zeros(()))
    assert torch.equal(noisy.tokens, text.tokens)
    assert torch.equal(model.segment(visual, noisy).mask_logits, model.segment(visual, text).mask_logits)


def test_recomputed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    config = dataclasses.replace(
        DEBUG,
        backbone=dataclasses.replace(DEBUG.backbone, drop_path=0.0),
        text=dataclasses.replace(DEBUG.text, dropout=0.0),
    )
    kept = catalog.build("lgformer", config).train()
    recomputing = catalog.build("lgformer", config).train()
    recomputing.load_state_dict(kept.state_dict())
    recompute_activations(recomputing)
    for model in (kept, recomputing):
        answer(model, ["a dog"], model.encode_visual(clips())).mask_logits.square().mean().backward()
    for (name, one), other in zip(kept.named_parameters(), recomputing.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name)
