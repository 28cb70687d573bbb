from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.seeing import SeeingModel
from refseg.device import find_device, find_dtype
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.predictor import EncodedClip, Predictor


@pytest.fixture
def predictor():
    return Predictor(SeeingModel(), device="cpu")


def picture(height=30, width=50, box=(10, 5, 30, 20), colour=(255, 0, 0)):
    """A grey picture with one coloured rectangle, box xyxy."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = colour
    return pixels


def test_masks_come_back_at_the_size_of_the_source(predictor):
    (answer,) = predictor(picture(31, 47), ["left"])
    assert answer.masks.shape == (1, 31, 47)


def test_the_left_half_of_an_even_picture_is_exact(predictor):
    (answer,) = predictor(picture(30, 50), ["left"])
    wanted = torch.zeros(1, 30, 50, dtype=torch.bool)
    wanted[..., :25] = True
    assert torch.equal(answer.masks, wanted)


def test_a_coloured_box_is_found_to_the_pixel_when_nothing_is_resized():
    predictor = Predictor(SeeingModel(size=64), device="cpu")
    (answer,) = predictor(picture(64, 64, (10, 5, 30, 20)), ["red"])
    assert answer.box() == (10, 5, 30, 20)


@pytest.mark.parametrize("spec", [{"fit": "letterbox"}, {"fit": "shortest", "longest": 90, "divisor": 32}])
@pytest.mark.parametrize("size", [(60, 100), (101, 47)])
def test_padding_does_not_move_the_answer(spec, size):
    predictor = Predictor(SeeingModel(**spec), device="cpu")
    height, width = size
    box = (width // 4, height // 4, width // 2, height // 2)
    (answer,) = predictor(picture(height, width, box), ["red"])
    assert all(abs(a - b) <= 1 for a, b in zip(answer.box(), box, strict=True))


def test_answers_keep_the_order_and_words_of_the_phrases(predictor):
    answers = predictor(picture(), ["the right", "nothing", "the right", "left"])
    assert [a.phrase for a in answers] == ["the right", "nothing", "the right", "left"]
    assert [a.is_empty() for a in answers] == [False, True, False, False]
    assert torch.equal(answers[0].masks, answers[2].masks)


def test_answers_that_are_no_numbers_are_told(predictor, monkeypatch):
    clip = predictor.encode(picture())
    (output,) = predictor.outputs(clip, ["left"])
    broken = replace(output, mask_logits=output.mask_logits * float("nan"))
    monkeypatch.setattr(predictor, "_output", lambda *_: broken)
    with pytest.raises(InvalidInput, match=r"not numbers \(NaN\).*try float32"):
        predictor.segment(clip, ["left"])


def test_a_clip_is_encoded_once_for_many_phrases(predictor):
    clip = predictor.encode(picture())
    predictor.segment(clip, ["left", "red"])
    predictor.segment(clip, ["right"])
    assert predictor.model.num_encoded == 1


def test_many_phrases_together_equal_each_alone(predictor):
    clip = predictor.encode(picture())
    phrases = ["left", "red", "everything"]
    together = predictor.segment(clip, phrases)
    alone = [predictor.segment(clip, [phrase])[0] for phrase in phrases]
    assert all(
        torch.equal(a.masks, b.masks) and a.score == b.score for a, b in zip(together, alone, strict=True)
    )


def test_more_phrases_than_fit_at_once_are_asked_in_parts(predictor, monkeypatch):
    monkeypatch.setattr("refseg.predictor._MOST_PHRASES_AT_ONCE", 2)
    answers = predictor(picture(), ["left", "right", "left", "right", "left"])
    assert predictor.model.pairs == [2, 2, 1]
    assert len(answers) == 5


def test_large_features_are_asked_one_phrase_at_a_time(predictor, monkeypatch):
    monkeypatch.setattr("refseg.predictor._WORKING_BYTES", 1)
    predictor(picture(), ["left", "right"])
    assert predictor.model.pairs == [1, 1]


def test_two_encoded_clips_do_not_disturb_each_other(predictor):
    first, second = predictor.encode(picture()), predictor.encode(picture(21, 35, (1, 1, 9, 9)))
    assert predictor.segment(first, ["left"])[0].masks.shape[-2:] == (30, 50)
    assert predictor.segment(second, ["left"])[0].masks.shape[-2:] == (21, 35)


def test_at_canvas_the_masks_have_the_size_of_the_canvas(predictor):
    answers = predictor.segment(predictor.encode(picture()), ["left"], at="canvas")
    assert answers[0].masks.shape == (1, 64, 64)


def test_an_unknown_ruler_is_refused(predictor):
    with pytest.raises(InvalidInput, match="'source' or at 'canvas'"):
        predictor.segment(predictor.encode(picture()), ["left"], at="screen")


def test_a_clip_gets_one_mask_a_frame(predictor):
    frames = np.stack([picture(box=(10, 5, 30, 20)), picture(box=(20, 5, 40, 20))])
    (answer,) = predictor(frames, ["red"])
    assert answer.masks.shape == (2, 30, 50)
    assert answer.box(1)[0] - answer.box(0)[0] == 10


def test_only_target_frames_get_masks(predictor):
    frames = [picture(), picture(box=(0, 0, 20, 10)), picture()]
    clip = predictor.encode(frames, target_frames=[1])
    (answer,) = predictor.segment(clip, ["red"])
    assert isinstance(clip, EncodedClip) and clip.num_frames == 3 and clip.target_frames == (1,)
    assert answer.masks.shape[0] == 1 and answer.box()[0] == 0


@pytest.mark.parametrize("targets", [[], [3], [-1]])
def test_target_frames_outside_the_clip_are_refused(predictor, targets):
    with pytest.raises(InvalidInput, match="clip of 3 frames"):
        predictor.encode([picture()] * 3, target_frames=targets)


def test_every_form_of_one_picture_gives_the_same_mask(predictor, tmp_path):
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [
        pixels,
        pixels / 255.0,
        Image.fromarray(pixels),
        tensor,
        tensor.double() / 255,
        str(tmp_path / "picture.png"),
        tmp_path / "picture.png",
        [pixels],
        tensor[None],
    ]
    answers = [predictor(form, ["red"])[0].masks for form in forms]
    assert all(torch.equal(answers[0], other) for other in answers[1:])


def test_a_picture_so_thin_that_its_canvas_would_fill_the_memory_is_refused():
    predictor = Predictor(SeeingModel(fit="shortest", size=360), device="cpu")
    with pytest.raises(InvalidInput, match="2000x1 pixels would become 720000x360"):
        predictor.encode(np.zeros((1, 2000, 3), np.uint8))


def test_the_masks_are_ordinary_tensors_that_can_be_changed(predictor):
    (answer,) = predictor(picture(), ["red"])
    answer.masks[:] = False
    assert answer.is_empty()


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ([], "no phrase"),
        (["left", ""], "phrase 2 is empty"),
        (["  \t"], "phrase 1 is empty"),
        ("left", r"write \['left'\]"),
        (["left", 3], "phrase 2 is int"),
        (["unicorn"], "does not know 'unicorn'"),
    ],
)
def test_phrases_that_cannot_be_asked_are_refused(predictor, phrases, message):
    with pytest.raises(InvalidInput, match=message):
        predictor(picture(), phrases)


def test_phrases_are_checked_before_the_picture_is_encoded(predictor):
    with pytest.raises(InvalidInput):
        predictor(picture(), [""])
    assert predictor.model.num_encoded == 0


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_finds_the_same_box(dtype):
    predictor = Predictor(SeeingModel(), device="cpu", dtype=dtype)
    (answer,) = predictor(picture(64, 64), ["red"])
    assert answer.box() == (10, 5, 30, 20)
    assert predictor.model.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["int8", torch.float64, "double"])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(InvalidInput, match="float32, bfloat16, float16"):
        find_dtype(dtype)


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")


def test_auto_prefers_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_absent_is_an_error_and_not_replaced(monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InvalidInput, match=asked):
        Predictor(SeeingModel(), device=asked)


def test_a_cuda_device_beyond_the_last_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InvalidInput, match="2 CUDA devices"):
        find_device("cuda:2")


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(predictor, threshold):
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        predictor.set_threshold(threshold)


def test_at_a_threshold_of_one_nothing_is_sure_enough(predictor):
    predictor.set_threshold(1.0)
    assert predictor(picture(), ["everything"])[0].is_empty()


def test_every_model_of_the_house_answers_through_the_predictor():
    """Freshly initialised debug variants, odd sizes, a clip, phrases together and alone."""
    for family, phrase in (("scout", "left star"), ("referformer", "left dog")):
        torch.manual_seed(0)
        predictor = Predictor(catalog.build(family, "debug"), device="cpu")
        clip = predictor.encode(np.random.default_rng(0).integers(0, 256, (2, 61, 97, 3), dtype=np.uint8))
        together = predictor.segment(clip, [phrase, "the red star on the right"])
        (alone,) = predictor.segment(clip, [phrase])
        assert together[0].masks.shape == (2, 61, 97)
        assert torch.equal(together[0].masks, alone.masks)
        assert together[0].score == pytest.approx(alone.score, abs=1e-5)  # float32 sums in another order


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same_box():
    predictor = Predictor(SeeingModel(), device="cuda")
    (answer,) = predictor(picture(64, 64), ["red"])
    assert answer.box() == (10, 5, 30, 20) and answer.masks.device.type == "cpu"


@pytest.mark.parametrize("asked", ["gpu", "", "vulkan"])
def test_a_word_that_is_no_device_is_refused(asked):
    with pytest.raises(InvalidInput, match="cpu, cuda"):
        find_device(asked)


def test_a_phrase_that_the_model_cuts_is_told():
    predictor = Predictor(catalog.build("lgformer", "debug"), device="cpu")
    picture = torch.zeros(1, 3, 40, 50, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="longer than this model reads: its last"):
        predictor(picture, ["the dog " * 100])
    assert predictor.cut_phrases(["dog"]) == []
