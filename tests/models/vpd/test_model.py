"""What VPD does beyond the published code, and what it must not do."""

import dataclasses

import pytest
import torch

from models.vpd import published
from refseg.errors import InvalidInput
from refseg.framing import place_frames
from refseg.models import catalog
from refseg.models.vpd import attention, unet
from refseg.models.vpd.config import VARIANTS
from refseg.models.vpd.model import _rows_at_once
from refseg.predictor import Predictor
from refseg.structures import Clips

PHRASES = ("a dog", "the left cat", "a person in red")


@pytest.fixture(scope="module")
def model():
    return published.model()


def clips(height, width, count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 1, 3, height, width, generator=generator) * 2 - 1
    valid = torch.ones(count, height, width, dtype=torch.bool)
    return Clips(pixels, valid, torch.tensor([[height, width]] * count))


def answers(model, given, phrases):
    with torch.no_grad():
        visual = model.encode_visual(given)
        text = model.encode_text(model.tokenize(phrases))
        return model.segment(visual.rows(torch.zeros(len(phrases), dtype=torch.int64)), text)


@pytest.mark.parametrize("size", [(64, 128), (192, 64), (128, 128)])
def test_canvases_of_any_multiple_of_64_work(model, size):
    output = answers(model, clips(*size), PHRASES[:1])
    assert output.mask_logits.shape == (1, 1, 1, size[0] // 8, size[1] // 8)


def test_maps_are_handled_by_layer_not_by_square_root(model):
    # 64 x 256 pixels at stride 16 have as many cells as 128 x 128 pixels at stride 16.
    latents, context = torch.randn(1, 4, 8, 32), torch.randn(1, 24, 32)
    with torch.no_grad():
        features, maps = model.unet(latents, context)
    assert {stride: tuple(value.shape[1:]) for stride, value in maps.items()} == {
        16: (24, 4, 16),
        32: (24, 2, 8),
    }
    assert {stride: tuple(value.shape[2:]) for stride, value in features.items()} == {
        64: (1, 4),
        32: (2, 8),
        16: (4, 16),
        8: (8, 32),
    }
    for value in maps.values():
        torch.testing.assert_close(
            value.sum(1), torch.ones_like(value[:, 0])
        )  # a share of each token, at every cell


def test_another_size_is_refused_with_a_sentence(model):
    with pytest.raises(InvalidInput, match=r"100x64 pixels was given.*multiples of 64"):
        model.encode_visual(clips(64, 100))


def test_a_shaped_picture_keeps_its_shape():
    spec = VARIANTS["refcoco-shaped"].frame
    pixels, placement = place_frames(torch.zeros(1, 3, 300, 451, dtype=torch.uint8), spec)
    assert placement.content == (512, 769)
    assert tuple(pixels.shape[-2:]) == placement.canvas == (512, 832)


def test_a_shaped_picture_gets_masks_of_its_own_size():
    torch.manual_seed(0)
    frame = dataclasses.replace(VARIANTS["refcoco-shaped"].frame, size=64, longest=128)
    shaped = catalog.build("vpd", "debug", frame=frame)
    predictor = Predictor(shaped, device="cpu")
    [answer] = predictor(torch.randint(0, 256, (3, 50, 83), dtype=torch.uint8), ["a dog"])
    assert answer.masks.shape == (1, 50, 83)


def test_the_image_encoder_runs_once_for_many_phrases(model):
    predictor, calls = Predictor(model, device="cpu"), []
    handle = model.vae.register_forward_hook(lambda *_: calls.append(1))
    predictor(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), PHRASES)
    handle.remove()
    assert len(calls) == 1


def test_rows_taken_in_parts_are_rows_taken_together(model, monkeypatch):
    given = clips(64, 128)
    together = answers(model, given, PHRASES)
    monkeypatch.setattr("refseg.models.vpd.model._rows_at_once", lambda _: 1)
    torch.testing.assert_close(answers(model, given, PHRASES).mask_logits, together.mask_logits)


def test_memory_decides_how_many_rows_are_taken_at_once():
    small, large = torch.empty(9, 4, 64, 64, device="meta"), torch.empty(9, 4, 256, 256, device="meta")
    assert _rows_at_once(small) > _rows_at_once(large) == 1
    assert _rows_at_once(small.bfloat16()) > _rows_at_once(small)


def test_only_the_ten_named_layers_are_read(model):
    readers = {
        name: module.processor.name
        for name, module in model.unet.named_modules()
        if isinstance(getattr(module, "processor", None), attention.MapReader)
    }
    named = {name for layers in unet.MAP_LAYERS.values() for name in layers}
    assert set(readers.values()) == named and len(readers) == 10
    for path, name in readers.items():
        block, level, layer = name.split(".")
        assert path == f"{block}.{level}.attentions.{layer}.transformer_blocks.0.attn2"
    others = [
        module.processor
        for module in model.unet.modules()
        if hasattr(module, "processor") and not isinstance(module.processor, attention.MapReader)
    ]
    assert len(others) == 22 and all(isinstance(one, attention.FusedAttention) for one in others)


def test_nothing_of_a_pass_stays_behind(model):
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    answers(model, clips(64, 64), PHRASES[:1])
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_the_layers_that_predict_noise_are_not_there(model):
    names = list(model.state_dict())
    assert not any(
        ".conv_norm_out." in name or ".conv_out." in name for name in names if name.startswith("unet.")
    )


def test_attention_in_slices_is_attention(monkeypatch):
    query, key, value = (torch.randn(2, 3, length, 8) for length in (37, 50, 50))
    whole = attention.attend(query, key, value)
    monkeypatch.setattr(attention, "FUSED_DEVICES", ())
    monkeypatch.setattr(attention, "LARGEST_MATRIX", 2 * 3 * 50 * 4 * 5)
    assert attention.rows_at_once(query, key) == 5
    torch.testing.assert_close(attention.attend(query, key, value), whole)


def test_a_small_matrix_is_not_sliced(monkeypatch):
    calls = []
    real = attention.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention, "FUSED_DEVICES", ())
    monkeypatch.setattr(
        attention.functional, "scaled_dot_product_attention", lambda *given: calls.append(1) or real(*given)
    )
    attention.attend(*(torch.randn(1, 2, 16, 8) for _ in range(3)))
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_halves_the_weights_and_agrees(dtype):
    picture = torch.randint(
        0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    exact = Predictor(published.model(), device="cpu")
    half = Predictor(published.model(), device="cpu", dtype=dtype)
    assert half.model.unet.conv_in.weight.dtype == dtype
    first, second = (
        next(iter(one.outputs(one.encode(picture), ["a dog"]))).mask_logits for one in (exact, half)
    )
    assert (first - second).abs().mean() < 0.05 * first.std()


def test_training_mode_leaves_the_frozen_parts_alone(model):
    model.train()
    assert not model.vae.training and not model.text_tower.training and model.unet.training
    model.eval()


def test_a_tie_is_background(model):
    from refseg.structures import Output

    _, placement = place_frames(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), model.config.frame)
    [mask] = model.finish(Output(torch.zeros(1, 1, 1, 8, 8)), [placement])
    assert not mask.any()


def test_parts_wait_on_the_cpu_and_take_turns():
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    expected = Predictor(published.model(), device="cpu")(picture, PHRASES)
    predictor = Predictor(published.model(), device="cpu", offload=True)
    parts = {name: getattr(predictor.model, name) for name in ("vae", "text_tower", "unet")}
    before = {name: part._hf_hook.prev_module_hook.model for name, part in parts.items()}
    assert before == {"vae": parts["unet"], "text_tower": parts["vae"], "unet": parts["text_tower"]}
    assert {str(part._hf_hook.execution_device) for part in parts.values()} == {"cpu"}
    for one, other in zip(predictor(picture, PHRASES), expected, strict=True):
        assert torch.equal(one.masks, other.masks)


def test_a_part_goes_back_when_the_next_one_is_called(monkeypatch):
    from refseg.models.vpd.offload import take_turns

    # "meta" stands for the second device: every machine has it, and it says which tensors lie on it.
    parts = [torch.nn.Linear(2, 2) for _ in range(3)]
    moved = []

    def move(part, number):
        return lambda place: moved.append((number, str(place))) or part.to_empty(device=place)

    for number, part in enumerate(parts):
        monkeypatch.setattr(part, "to", move(part, number))
    take_turns(parts, torch.device("meta"))
    moved.clear()
    for part in (*parts, parts[0]):
        part(torch.ones(1, 2))
    assert moved == [
        (0, "meta"),
        *((0, "cpu"), (1, "meta")),
        *((1, "cpu"), (2, "meta")),
        *((2, "cpu"), (0, "meta")),
    ]


def test_offload_without_accelerate_says_what_to_type(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InvalidInput, match="type: pip install accelerate"):
        Predictor(published.model(), device="cpu", offload=True)


def test_families_without_large_parts_refuse_to_offload():
    with pytest.raises(InvalidInput, match="has no parts"):
        Predictor(catalog.build("scout", "debug"), device="cpu", offload=True)
