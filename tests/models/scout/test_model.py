"""What is special to scout: words at every stage, clips that begin as frames, and answers of "nothing here"."""

import dataclasses

import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import InvalidInput
from refseg.framing import place
from refseg.models import catalog
from refseg.models.scout.config import VARIANTS
from refseg.models.scout.family import FAMILY
from refseg.models.scout.position import places
from refseg.structures import Example, Output


@pytest.fixture
def model():
    torch.manual_seed(0)
    return catalog.build("scout", "debug").eval()


def batch_of(model, *, frames=1, height=48, width=64, phrases=("red star", "dog on the left"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)
    return collate([Example("made in the test", pixels, phrases)], model.config.frame)


@torch.no_grad()
@pytest.mark.parametrize("stage", range(4))
def test_words_enter_at_every_stage(model, stage):
    batch = batch_of(model, phrases=("red star",))
    stage1 = model.encode_visual(batch.clips).maps[1].flatten(0, 1)
    where = places(batch.clips.valid)
    climbed = []
    for phrase in ("red star", "blue dog"):
        text = model.encode_text(model.tokenize([phrase]))
        fused = model.fusions[stage]
        maps = model.climb(stage1, where, None)[stage]
        climbed.append(fused(maps, where[stage], text.tokens, text.valid))
    assert not torch.allclose(*climbed, atol=1e-4)


@torch.no_grad()
def test_a_model_without_clip_training_reads_a_clip_frame_by_frame(model):
    clip = batch_of(model, frames=3)
    together = model(clip).mask_logits
    for time in range(3):
        one = dataclasses.replace(clip.clips, pixels=clip.clips.pixels[:, time : time + 1])
        alone = model(dataclasses.replace(clip, clips=one)).mask_logits
        torch.testing.assert_close(together[:, :, time : time + 1], alone, atol=1e-4, rtol=1e-4)


def open_motion(model):
    """As training would: the last map of the motion block leaves zero."""
    torch.nn.init.normal_(model.motion.out.weight)


@torch.no_grad()
def test_once_motion_is_trained_frames_tell_each_other(model):
    open_motion(model)
    clip = batch_of(model, frames=3)
    before = model(clip).mask_logits[:, :, 0]
    clip.clips.pixels[:, 2] = 0
    assert not torch.allclose(model(clip).mask_logits[:, :, 0], before, atol=1e-4)


@torch.no_grad()
def test_the_order_of_frames_matters_once_motion_is_trained(model):
    open_motion(model)
    clip = batch_of(model, frames=3)
    there = model(clip).mask_logits
    clip.clips.pixels = clip.clips.pixels.flip(1)
    assert not torch.allclose(model(clip).mask_logits.flip(2), there, atol=1e-4)


@torch.no_grad()
def test_target_frames_choose_what_is_segmented(model):
    clip = batch_of(model, frames=3)
    everything = model(clip).mask_logits
    clip.clips.target_frames = torch.tensor([[2]])
    torch.testing.assert_close(model(clip).mask_logits, everything[:, :, 2:], atol=1e-4, rtol=1e-4)


def output_saying(existence, side=32):
    """Masks that are full everywhere, and existence logits [P, T']."""
    logits = torch.tensor(existence)[:, None, :, None]
    return Output(torch.full((len(existence), 1, logits.shape[2], side, side), 9.0), class_logits=logits)


def test_an_answer_that_exists_nowhere_is_an_empty_mask(model):
    where = place((61, 75), model.config.frame)
    found, missing = model.finish(output_saying([[3.0], [-3.0]]), [where, where])
    assert found.all()
    assert not missing.any()


def test_frames_without_the_object_are_empty_and_the_score_is_that_of_the_best_frame(model):
    output = output_saying([[3.0, -3.0]])
    (masks,) = model.finish(output, [place((64, 64), model.config.frame)])
    assert masks[0].all()
    assert not masks[1].any()
    torch.testing.assert_close(model.choose(output)[1], torch.tensor([0.952574]))  # 1 / (1 + exp(-3))


def test_a_canvas_that_the_strides_do_not_divide_is_refused(model):
    batch = batch_of(model)
    odd = dataclasses.replace(
        batch.clips, pixels=batch.clips.pixels[..., :50], valid=batch.clips.valid[..., :50]
    )
    with pytest.raises(InvalidInput, match="multiples of 32"):
        model.encode_visual(odd)


def test_positions_count_from_the_ends_of_the_content():
    valid = torch.zeros(1, 64, 64, dtype=torch.bool)
    valid[:, 16:48] = True  # a wide picture between two bars
    stride4 = places(valid)[0]
    centres = stride4.rows[0, :, 0]  # the plain coordinate, -1 and 1 at the ends of the content
    assert centres[4].item() == pytest.approx(2 * 2 / 32 - 1)
    assert centres[11].item() == pytest.approx(1 - 2 * 2 / 32)
    assert stride4.columns[0, 0, 0].item() == pytest.approx(2 * 2 / 64 - 1)
    assert stride4.valid[0, 0, :, 0].tolist() == [0.0] * 4 + [1.0] * 8 + [0.0] * 4


def test_a_world_of_words_leaves_marks_out():
    config = VARIANTS["debug"].for_words(("<pad>", "<unk>", "cat", "dog"))
    assert config.vocabulary == ("cat", "dog")


def test_the_shipped_variant_fits_in_twelve_megabytes_of_half_precision():
    config = VARIANTS["base"].for_words([f"word{i}" for i in range(500)])
    with torch.device("meta"):
        state = catalog.build("scout", config).state_dict()
    assert 2 * sum(tensor.numel() for tensor in state.values()) < 12e6


def test_conversion_keeps_every_weight_and_leaves_strange_names_over(model):
    state = model.state_dict()
    kept, report = FAMILY.convert({**state, "backbone.conv1.weight": torch.zeros(1)}, model.config)
    assert kept.keys() == state.keys()
    assert report.left == ["backbone.conv1.weight"]
