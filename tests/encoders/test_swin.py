"""What the Swin Transformer does at odd sizes, and what it takes from classification files; its numbers are proven by
the parity cases."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from refseg.encoders.swin import (
    Swin,
    SwinSpec,
    classification_start,
    classification_state,
    place_windows,
    relative_index,
    start_of,
)
from refseg.errors import CheckpointMismatch

SMALL = SwinSpec(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window=7)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Swin(SMALL).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (33, 1)])
def test_maps_have_the_size_of_the_picture_over_their_stride_rounded_up(network, height, width):
    maps = network(torch.randn(2, 3, height, width))
    expected = [(2, 8 * 2**k, -(-height // (4 * 2**k)), -(-width // (4 * 2**k))) for k in range(4)]
    assert [tuple(level.shape) for level in maps] == expected


def plain_attention(attention, cells, window, shift):
    """The published steps one by one: pad, roll, cut, score with bias and mask, put back, roll back, crop."""
    height, width = cells.shape[1:3]
    padded = functional.pad(cells, (0, 0, 0, -width % window, 0, -height % window))
    rolled = padded.roll((-shift, -shift), (1, 2))
    regions = torch.zeros(rolled.shape[1:3])
    bounds = (slice(0, -window), slice(-window, -shift or None), slice(-shift, None))
    if shift:
        for number, (rows, columns) in enumerate((r, c) for r in bounds for c in bounds):
            regions[rows, columns] = number
    bias = attention.relative_position_bias_table[relative_index(window, torch.device("cpu"))].permute(
        2, 0, 1
    )
    answer = torch.zeros_like(rolled)
    for top in range(0, rolled.shape[1], window):
        for left in range(0, rolled.shape[2], window):
            tile = (slice(None), slice(top, top + window), slice(left, left + window))
            q, k, v = (
                part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                for part in attention.qkv(rolled[tile].flatten(1, 2)).chunk(3, -1)
            )
            region = regions[tile[1:]].flatten()
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
            scores = scores - 100.0 * (region[:, None] != region)
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            answer[tile] = mixed.unflatten(1, (window, window))
    return attention.proj(answer.roll((shift, shift), (1, 2))[:, :height, :width])


@pytest.mark.parametrize("size", [(14, 21), (9, 16), (7, 30), (3, 5), (1, 1)])
@pytest.mark.parametrize("shift", [0, 3])
@torch.no_grad()
def test_windows_see_what_padding_rolling_and_cutting_would_show_them(network, size, shift):
    attention = network.layers[1].blocks[0].attn
    torch.nn.init.normal_(attention.qkv.bias)  # padding is seen as this bias
    torch.nn.init.normal_(attention.relative_position_bias_table)
    cells = torch.randn(2, *size, 16)
    windows = place_windows(2, size, 7, shift, cells.device)
    given = attention(cells, windows, relative_index(7, cells.device))
    torch.testing.assert_close(given, plain_attention(attention, cells, 7, shift), atol=1e-5, rtol=0)


def test_relative_positions_are_those_of_query_minus_key():
    index = relative_index(3, torch.device("cpu"))
    assert index.shape == (9, 9)
    assert index[0, 0] == 12  # the middle of 25
    assert index[0, 8] == 0  # first query, last key: two up, two left
    assert index[8, 0] == 24
    assert index[1, 0] == 13  # one right


def test_drop_path_leaves_out_whole_images_and_makes_up_for_it():
    torch.manual_seed(0)
    block = Swin(dataclasses.replace(SMALL, drop_path=0.4)).layers[3].blocks[1].train()
    branch = block._sometimes(torch.ones(1000, 2, 2, 3))
    values = branch.flatten(1)
    assert (values == values[:, :1]).all()
    torch.testing.assert_close(values[:, 0].unique(), torch.tensor([0.0, 1 / 0.6]))
    assert 0.5 < (values[:, 0] > 0).float().mean() < 0.7
    assert block.eval()._sometimes(torch.ones(4, 1, 1, 1)).eq(1).all()


def test_a_file_of_another_window_fills_the_network(network):
    other = Swin(dataclasses.replace(SMALL, window=12)).state_dict()
    state = {name: value for name, value in other.items() if not name.startswith("norms.")}
    extra = {
        "norm.weight": torch.ones(64),
        "head.weight": torch.ones(10, 64),
        "layers.0.blocks.1.attn_mask": torch.ones(4, 144, 144),
    }
    start = classification_start({"model": {**state, **extra}}, network.state_dict())
    assert len(start.resized) == 8
    assert set(start.unused) == {"norm.weight", "head.weight"}
    assert {name.split(".")[0] for name in start.kept} == {"norms"}
    name = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(start.tensors[name], state[name])


def test_a_constant_table_stays_constant_when_resized(network):
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    start = start_of({name: torch.full((529, 1), 0.25)}, network.state_dict())
    assert start.tensors[name].shape == (169, 1)
    torch.testing.assert_close(start.tensors[name], torch.full((169, 1), 0.25))


def test_a_file_of_another_size_is_refused_by_name(network):
    other = Swin(dataclasses.replace(SMALL, embed_dim=16)).state_dict()
    with pytest.raises(CheckpointMismatch, match="patch_embed"):
        classification_start({"model": other}, network.state_dict())
    with pytest.raises(CheckpointMismatch, match="patch_embed"):
        classification_start({}, network.state_dict())


@pytest.mark.parametrize(
    "file",
    [
        {"state_dict": {"module.backbone.a": 1, "module.head.b": 2}},
        {"model": {"module.encoder.a": 1, "module.projector.b": 2}},
        {"a": 1},
    ],
)
def test_the_nesting_of_public_files_is_taken_off(file):
    assert classification_state(file) == {"a": 1}
