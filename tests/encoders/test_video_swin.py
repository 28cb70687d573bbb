"""What is special to Video Swin; its numbers are proven by the parity cases of ReferFormer."""

import dataclasses

import pytest
import torch

from refseg.encoders import video_swin
from refseg.encoders.video_swin import VideoSwin, VideoSwinSpec

SMALL = VideoSwinSpec(8, (2, 2, 1, 1), (1, 2, 2, 2), window=(2, 3, 3), drop_path=0.0)


def network(**changes):
    torch.manual_seed(0)
    return VideoSwin(dataclasses.replace(SMALL, **changes)).eval()


def clip(frames=5, height=45, width=70, batch=2):
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("frames", "height", "width"), [(5, 45, 70), (2, 24, 24), (1, 33, 90)])
def test_without_gradients_cells_are_computed_in_place_with_the_same_result(frames, height, width):
    model = network()
    kept = model(clip(frames, height, width))
    with torch.no_grad():
        placed = model(clip(frames, height, width))
    for one, other in zip(placed, kept, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (33, 1)])
def test_maps_have_the_size_of_the_frame_over_their_stride_rounded_up(height, width):
    maps = network()(clip(3, height, width))
    expected = [(2, 3, 8 * 2**k, -(-height // (4 * 2**k)), -(-width // (4 * 2**k))) for k in range(4)]
    assert [tuple(level.shape) for level in maps] == expected


@torch.no_grad()
def test_a_change_of_one_frame_is_seen_in_the_frames_beside_it_and_in_no_other_clip():
    frames = clip()
    changed = frames.clone()
    changed[0, 2] += 1
    before, after = network()(frames)[1], network()(changed)[1]
    assert not torch.equal(before[0, 1], after[0, 1])
    assert torch.equal(before[1], after[1])


@torch.no_grad()
def test_windows_in_steps_equal_all_at_once(monkeypatch):
    whole = network()(clip())
    monkeypatch.setattr(video_swin, "WINDOWS_AT_ONCE", 5)
    monkeypatch.setattr(video_swin, "TOKENS_AT_ONCE", 7)
    for stepwise, together in zip(network()(clip()), whole, strict=True):
        torch.testing.assert_close(stepwise, together, rtol=1e-5, atol=1e-5)


def test_branches_of_whole_clips_are_dropped_in_training_alone():
    model = network(drop_path=1 - 1e-9)
    model.layers[3].blocks[0].drop_path = 1 - 1e-9
    with torch.no_grad():
        kept = model(clip())[3]
        dropped = model.train()(clip())[3]
    assert not torch.equal(kept, dropped)
    shares = [block.drop_path for stage in model.layers for block in stage.blocks]
    assert shares[0] == 0
    assert shares == sorted(shares)


def test_a_cut_window_takes_its_biases_from_the_top_left_of_the_full_one():
    # Published behaviour: rows of 3 are read as if cells lay in rows of 3 although the map is only 2 wide.
    attention = network().layers[0].blocks[0].attn
    full, cut = attention.bias(18), attention.bias(8)
    assert torch.equal(cut, full[:, :8, :8])
