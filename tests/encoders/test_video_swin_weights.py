"""Public files as a Video Swin takes them; each file is built here in its published form."""

import re

import pytest
import torch

from refseg.encoders.swin import Swin, SwinSpec
from refseg.encoders.video_swin import (
    VideoSwin,
    VideoSwinSpec,
    inflate_patches,
    inflate_table,
    load_pretrained,
)
from refseg.errors import CheckpointMismatch

SPEC = VideoSwinSpec(8, (2, 2, 1, 1), (1, 2, 2, 2), window=(2, 3, 3))


def network(seed=0):
    torch.manual_seed(seed)
    return VideoSwin(SPEC)


def kinetics_file(source):
    """A file of the Video Swin authors: a prefix, mergings inside the layers, patches of two frames, a classifier."""
    state = {}
    for name, value in source.state_dict().items():
        published = re.sub(r"^downsamples\.(\d)", r"layers.\1.downsample", name)
        state[f"backbone.{published}"] = value
    patches = state["backbone.patch_embed.proj.weight"]
    state["backbone.patch_embed.proj.weight"] = torch.cat([0.25 * patches, 0.75 * patches], dim=2)
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(18, 18, dtype=torch.int64)
    state |= {"backbone.norm.weight": torch.ones(64), "backbone.norm.bias": torch.zeros(64)}
    state["cls_head.fc_cls.weight"] = torch.zeros(400, 64)
    return {"state_dict": state, "meta": {}}


def test_a_file_of_action_classification_fills_the_whole_network():
    source, taken = network(1), network(2)
    unused = load_pretrained(taken, kinetics_file(source))
    for name, value in source.state_dict().items():
        torch.testing.assert_close(taken.state_dict()[name], value)
    assert sorted(unused) == ["cls_head.fc_cls.weight", "norm.bias", "norm.weight"]


def test_a_file_that_lacks_a_tensor_is_refused():
    file = kinetics_file(network())
    del file["state_dict"]["backbone.layers.1.blocks.0.mlp.fc1.bias"]
    with pytest.raises(CheckpointMismatch) as told:
        load_pretrained(network(), file)
    assert "layers.1.blocks.0.mlp.fc1.bias" in told.value.missing


def test_a_file_of_pictures_is_inflated_so_that_a_single_frame_is_seen_as_the_picture_was():
    torch.manual_seed(3)
    source = Swin(SwinSpec(8, (2, 2, 1, 1), (1, 2, 2, 2), window=3)).eval()
    file = {"model": source.state_dict() | {"head.weight": torch.zeros(5, 64)}}
    file["model"] = {name: value for name, value in file["model"].items() if not name.startswith("norms.")}
    taken = network().eval()
    load_pretrained(taken, file)
    pictures = torch.randn(2, 3, 96, 96)  # 24 x 24 cells: whole windows in the first stages, none cut
    with torch.no_grad():
        cells = source.stages()[0](source.patch_embed(pictures))
        torch.testing.assert_close(taken(pictures[:, None])[0][:, 0], cells.permute(0, 3, 1, 2))


def test_patches_of_two_frames_are_summed_and_those_of_pictures_taken_as_they_are():
    deep = torch.randn(8, 3, 2, 4, 4)
    torch.testing.assert_close(inflate_patches(deep)[:, :, 0], deep[:, :, 0] + deep[:, :, 1])
    assert inflate_patches(torch.randn(8, 3, 4, 4)).shape == (8, 3, 1, 4, 4)


def test_a_table_of_pictures_serves_every_offset_in_time_and_another_window_is_resized():
    table = torch.randn(25, 2)
    assert torch.equal(inflate_table(table, (2, 3, 3)), torch.cat([table] * 3))
    assert inflate_table(table, (2, 4, 4)).shape == (3 * 49, 2)
