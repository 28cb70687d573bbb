"""Feed-forward networks, normalisations, position codes, steps."""

import math

import pytest
import torch

from refseg.layers import feed_forward
from refseg.layers.chunking import row_steps
from refseg.layers.feed_forward import MLP, FeedForward
from refseg.layers.norm import ConvFrozenNorm, FrozenBatchNorm2d
from refseg.layers.position import sine_1d, sine_2d


def test_a_network_in_steps_equals_the_network_at_once(monkeypatch):
    monkeypatch.setattr(feed_forward, "TOKENS_AT_ONCE", 4)
    network, tokens = FeedForward(6, 10).eval(), torch.randn(2, 7, 6)
    with torch.no_grad():
        stepwise = network(tokens)
    torch.testing.assert_close(stepwise, network(tokens).detach())


def test_no_token_is_also_a_batch():
    with torch.no_grad():
        assert FeedForward(6, 10)(torch.zeros(0, 7, 6)).shape == (0, 7, 6)


def test_an_mlp_has_no_activation_after_its_last_layer():
    network = MLP((1, 1, 1))
    for layer in network.layers:
        torch.nn.init.constant_(layer.weight, -1.0)
        torch.nn.init.zeros_(layer.bias)
    assert network(torch.tensor([-2.0])).item() == -2.0
    assert network(torch.tensor([2.0])).item() == 0.0


def test_steps_cover_all_rows_once():
    with torch.no_grad():
        assert row_steps(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert row_steps(7, 3) == [slice(0, 7)]  # gradients are kept for all of them anyway


def test_a_frozen_norm_is_batch_norm_in_evaluation():
    theirs = torch.nn.BatchNorm2d(3)
    for values in (theirs.weight.data, theirs.bias.data, theirs.running_mean, theirs.running_var):
        values.uniform_(0.5, 2)
    ours = FrozenBatchNorm2d(3)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(ours(x), theirs.eval()(x))
    assert list(ours.parameters()) == []


def test_a_folded_norm_gives_the_values_and_gradients_of_two_steps():
    layer, x = ConvFrozenNorm(3, 4, 3, stride=2), torch.randn(2, 3, 7, 9)
    layer.norm.running_var.uniform_(0.5, 2)
    layer.norm.running_mean.uniform_(-1, 1)
    folded, apart = layer(x), layer.norm(layer.conv(x))
    torch.testing.assert_close(folded, apart)
    for result in (folded, apart):
        layer.conv.weight.grad = None
        result.square().sum().backward()
        result.gradient = layer.conv.weight.grad
    torch.testing.assert_close(folded.gradient, apart.gradient, rtol=1e-4, atol=1e-4)


def test_word_positions_count_words_and_stay_at_the_last():
    code = sine_1d(torch.tensor([[True, True, False]]), 4)
    angle = 2 * math.pi * 1 / 2  # the first of two words
    slow = angle / 100  # 10000^(2/4)
    torch.testing.assert_close(
        code[0, 0],
        torch.tensor([math.sin(angle), math.cos(angle), math.sin(slow), math.cos(slow)]),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(code[0, 1], code[0, 2])


@pytest.mark.parametrize(("offset", "first"), [(0.0, 0.25), (-0.5, 0.125)])
def test_map_positions_code_rows_then_columns(offset, first):
    valid = torch.zeros(1, 3, 5, dtype=torch.bool)
    valid[:, :2, :4] = True
    code = sine_2d(valid, 8, offset=offset)
    row = (1 + offset) / 2 * 2 * math.pi
    column = first * 2 * math.pi
    assert code.shape == (1, 3, 5, 8)
    assert code[0, 0, 0, 0].item() == pytest.approx(math.sin(row), abs=1e-5)
    assert code[0, 0, 0, 4].item() == pytest.approx(math.sin(column), abs=1e-5)


def test_positions_of_wholly_padded_columns_are_finite():
    assert torch.isfinite(sine_2d(torch.zeros(1, 3, 3, dtype=torch.bool), 8, offset=-0.5)).all()
