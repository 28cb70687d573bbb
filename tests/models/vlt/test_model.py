"""What is special in VLT's network; its numbers are proven by the parity cases."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from models.vlt.files import DEBUG, fresh
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.vlt.backbone import BatchNorm, ConvNorm, DownConvNorm
from refseg.models.vlt.config import VARIANTS
from refseg.models.vlt.loss import mask_term, masks_at_cells
from refseg.models.vlt.mask_head import UpConvNorm
from refseg.models.vlt.queries import DecoderLayer
from refseg.models.vlt.text import Gru
from refseg.structures import Output, Placement


def settle(module):
    """Random averages and scales, so that no norm is the identity."""
    for part in module.modules():
        if isinstance(part, BatchNorm):
            for values in (part.weight.data, part.running_var):
                values.uniform_(0.5, 2)
            for values in (part.bias.data, part.running_mean):
                values.uniform_(-1, 1)
    return module.eval()


def in_two_steps(block, x):
    """Convolution, then norm, then activation."""
    return functional.leaky_relu(block.norm(block.conv(x)), 0.1)


@torch.no_grad()
def test_a_folded_convolution_is_convolution_and_norm():
    block, x = settle(ConvNorm(3, 5, 3)), torch.randn(2, 3, 7, 9)
    torch.testing.assert_close(block(x), in_two_steps(block, x))


@torch.no_grad()
def test_a_halving_convolution_pads_top_and_left_alone():
    block, x = settle(DownConvNorm(3, 5)), torch.randn(2, 3, 8, 6)
    padded = torch.zeros(2, 3, 9, 7)
    padded[:, :, 1:, 1:] = x
    torch.testing.assert_close(block(x), in_two_steps(block, padded))
    assert block(x).shape == (2, 5, 4, 3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4)])
def test_a_doubling_folded_into_its_convolution_changes_nothing(size):
    block, x = settle(UpConvNorm(3, 5)), torch.randn(2, 3, *size)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(block(x), in_two_steps(block, doubled))


@torch.no_grad()
def test_the_reset_gate_acts_before_the_recurrent_product():
    gru, words = Gru(1, 2, dropout=0.0), torch.ones(1, 1, 1)
    gru.kernel.zero_()
    gru.recurrent_kernel.normal_()
    gru.bias.copy_(
        torch.tensor([-50.0, -50.0, 0.3, -50.0, 0.0, 0.0])
    )  # update shut, but for the reset of unit 1
    state = torch.tensor([[0.5, -0.25]])
    told = words[:, 0] @ gru.kernel + gru.bias
    reset = torch.sigmoid(told[:, 2:4] + state @ gru.recurrent_kernel[:, 2:4])
    update = torch.sigmoid(told[:, :2] + state @ gru.recurrent_kernel[:, :2])
    candidate = torch.tanh(told[:, 4:] + (reset * state) @ gru.recurrent_kernel[:, 4:])
    torch.testing.assert_close(gru._step(told, state), update * state + (1 - update) * candidate)
    after = torch.tanh(told[:, 4:] + reset * (state @ gru.recurrent_kernel[:, 4:]))
    assert not torch.allclose(after, candidate)  # the other form of a GRU would give this


@torch.no_grad()
def test_reading_backward_is_reading_the_words_turned_round():
    gru, words = Gru(3, 4, dropout=0.0).eval(), torch.randn(2, 5, 3)
    torch.testing.assert_close(gru(words, backward=True), gru(words.flip(1)).flip(1))


@torch.no_grad()
def test_a_query_sees_earlier_queries_alone_among_queries():
    layer, queries = DecoderLayer(8, 2, dropout=0.0).eval(), torch.randn(1, 4, 8)
    changed = queries.clone()
    changed[:, 2] += 1
    before, after = layer.among_queries(queries), layer.among_queries(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 3], after[:, 3])


def trained(config):
    with torch.device("meta"):
        model = catalog.build("vlt", config)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_the_published_numbers_of_trained_tensors():
    config = VARIANTS["refcoco"]
    by_default = trained(config)
    assert len(by_default) == 196
    assert round(sum(p.numel() for p in by_default) / 1e6, 1) == 38.2
    assert len(trained(dataclasses.replace(config, frozen="all but last"))) == 4
    assert len(trained(dataclasses.replace(config, frozen="none"))) == 524 - 2 * 80


def test_a_frozen_norm_uses_the_batch_in_training_and_keeps_its_averages():
    norm, x = BatchNorm(2), torch.randn(5, 2, 3, 3) * 4 + 7
    norm.requires_grad_(False)
    normalised = norm.train()(x)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert torch.equal(norm.running_var, torch.ones(2))


@pytest.mark.parametrize("shape", [(4, 1), (2, 1, 2, 2)])
def test_moving_averages_take_a_hundredth_of_the_batch(shape):
    norm, x = BatchNorm(1).train(), torch.arange(shape[0] * (4 if len(shape) == 4 else 1)).float().view(shape)
    norm(x)
    n = x.numel()
    biased = float(x.var(correction=0))
    unbiased = biased * (
        n / (n - 1) if len(shape) == 4 else 1
    )  # features are unbiased by the second rule alone
    assert norm.running_mean.item() == pytest.approx(0.01 * float(x.mean()))
    assert norm.running_var.item() == pytest.approx(0.99 + 0.01 * unbiased * n / (n - 1.001), rel=1e-6)


def test_a_batch_of_one_phrase_cannot_be_learnt_from():
    with pytest.raises(InvalidInput, match="at least 2"):
        BatchNorm(3).train()(torch.randn(1, 3))


def test_scores_are_resized_and_a_pixel_is_mask_strictly_above_the_threshold():
    model = fresh(dataclasses.replace(DEBUG, threshold=0.5))
    placement = Placement((2, 4), (32, 64), (16, 0), (64, 64))
    logits = torch.zeros(1, 1, 1, 2, 2)  # scores of 0.5, which are not above 0.5
    (mask,) = model.finish(Output(logits), [placement])
    assert mask.shape == (1, 2, 4)
    assert not mask.any()
    logits[..., 1] = 10.0
    model.config = dataclasses.replace(model.config, threshold=0.7)
    (mask,) = model.finish(Output(logits), [placement])
    # Between the cells scores are mixed, 0.5 and 1 to 0.62; logits would give a score of 0.92 there.
    assert mask[0].tolist() == [[False, False, True, True]] * 2


def test_targets_are_the_first_pixel_of_each_cell():
    masks = torch.arange(16.0).view(1, 1, 4, 4)
    assert masks_at_cells(masks, 2).tolist() == [[[[0, 2], [8, 10]]]]


def test_the_mask_term_is_summed_over_pixels_and_averaged_over_phrases():
    logits, masks = torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), 0.5)
    assert mask_term(logits, masks).item() == pytest.approx(16 * 0.6931472)


def test_the_penalty_counts_every_convolution_and_nothing_else():
    model = fresh().train()
    kernels = [module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(kernels) == 80
    total = sum(float(kernel.detach().square().sum()) for kernel in kernels)
    assert float(model._squared_kernels().detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "changes", [{"stride": 3}, {"num_heads": 5}, {"frame": dataclasses.replace(DEBUG.frame, size=60)}]
)
def test_a_configuration_that_cannot_be_built_is_told(changes):
    with pytest.raises(InvalidInput):
        fresh(dataclasses.replace(DEBUG, **changes))
