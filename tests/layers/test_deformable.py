"""Deformable attention: two ways to gather that agree, and samples worked by hand."""

import pytest
import torch

from refseg.layers.deformable import DeformableAttention, DeformableEncoderLayer, _gather_maps, _gather_rows

SIZES = [(5, 7), (3, 4), (2, 2), (1, 1)]
CELLS = sum(h * w for h, w in SIZES)
GATHERS = [_gather_rows, _gather_maps]


def inputs(dtype=torch.float32, queries=6):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, CELLS, 2, 3, generator=generator, dtype=dtype)
    places = torch.randn(2, queries, 2, 4, 3, 2, generator=generator, dtype=dtype) * 4 + 1
    weights = torch.rand(2, queries, 2, 4, 3, generator=generator, dtype=dtype)
    return values, places, weights


def test_rows_and_maps_gather_the_same():
    torch.testing.assert_close(_gather_rows(*inputs(), SIZES), _gather_maps(*inputs(), SIZES))


@pytest.mark.parametrize("gather", GATHERS)
def test_gradients_are_those_of_finite_differences(gather):
    values, places, weights = (part.requires_grad_() for part in inputs(torch.float64, queries=2))
    assert torch.autograd.gradcheck(lambda *parts: gather(*parts, SIZES), (values, places, weights))


@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((1.0, 0.0), 1.0),  # a centre
        ((0.5, 0.5), 2.0),  # between four cells: (0 + 1 + 3 + 4) / 4
        ((-0.5, 0.0), 0.0),  # half of cell 0, which is 0
        ((2.5, 1.0), 2.5),  # half of cell 5; the rest lies outside
        ((2.0, 1.75), 1.25),  # a quarter of cell 5
        ((-1.0, 0.0), 0.0),
        ((40.0, -70.0), 0.0),
    ],
)
def test_samples_are_bilinear_and_zero_outside(gather, place, expected):
    values = torch.arange(6.0).view(1, 6, 1, 1)  # a map of 2 x 3 cells
    places = torch.tensor(place).view(1, 1, 1, 1, 1, 2)
    assert gather(values, places, torch.ones(1, 1, 1, 1, 1), [(2, 3)]).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_a_place_that_is_no_number_does_not_break_the_gathering():
    values, places, weights = inputs()
    places[0, 0, 0, 0, 0, 0] = torch.nan
    assert _gather_rows(values, places, weights, SIZES).shape == (2, 6, 6)


def layer(**changes):
    torch.manual_seed(0)
    attention = DeformableAttention(8, num_heads=2, num_levels=4, num_points=3)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    torch.nn.init.normal_(attention.attention_weights.weight)
    return attention


def test_one_reference_serves_all_images():
    attention, query, tokens = layer(), torch.randn(2, 5, 8), torch.randn(2, CELLS, 8)
    reference = torch.rand(1, 5, 1, 2)
    once = attention(query, reference, tokens, SIZES)
    spelt_out = attention(query, reference.expand(2, 5, 4, 2), tokens, SIZES)
    torch.testing.assert_close(once, spelt_out)


def test_a_box_as_reference_scales_the_offsets():
    # A box of twice the points' number of cells on every level turns offset shares into cells.
    attention, query, tokens = layer(), torch.randn(1, 5, 8), torch.randn(1, CELLS, 8)
    centre = torch.rand(1, 5, 4, 2)
    cells = torch.tensor([[w, h] for h, w in SIZES], dtype=torch.float32)
    box = torch.cat([centre, (2 * attention.num_points / cells).expand(1, 5, 4, 2)], dim=-1)
    torch.testing.assert_close(attention(query, box, tokens, SIZES), attention(query, centre, tokens, SIZES))


def test_values_of_padding_are_not_read():
    attention, query, tokens = layer(), torch.randn(1, 5, 8), torch.randn(1, CELLS, 8)
    valid = torch.ones(1, CELLS, dtype=torch.bool)
    valid[:, 30:] = False
    reference = torch.rand(1, 5, 4, 2)
    noisy = torch.where(valid[..., None], tokens, torch.full_like(tokens, 99.0))
    torch.testing.assert_close(
        attention(query, reference, tokens, SIZES, valid), attention(query, reference, noisy, SIZES, valid)
    )


def test_heads_start_by_looking_around_themselves():
    attention = DeformableAttention(8, num_heads=4, num_levels=1, num_points=2)
    offsets = attention.sampling_offsets.bias.view(4, 1, 2, 2)
    torch.testing.assert_close(
        offsets[0, 0], torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    )  # first head: to the right
    torch.testing.assert_close(offsets[1, 0], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), atol=1e-6, rtol=0)


def test_an_encoder_layer_keeps_the_shape_and_trains():
    encoder = DeformableEncoderLayer(8, num_heads=2, num_levels=4, num_points=2, hidden_dim=12, dropout=0.1)
    tokens = torch.randn(2, CELLS, 8)
    read = encoder(tokens, torch.zeros(1, CELLS, 8), torch.rand(1, CELLS, 4, 2), SIZES)
    read.sum().backward()
    assert read.shape == tokens.shape
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_few_queries_read_before_the_values_are_projected(masked):
    attention, query, tokens = layer(), torch.randn(2, 5, 8), torch.randn(2, CELLS, 8)
    torch.nn.init.normal_(attention.value_proj.bias)
    reference = (
        torch.rand(2, 5, 4, 2) * 1.4 - 0.2
    )  # some places lie outside, where the bias counts for nothing
    valid = torch.rand(2, CELLS) > 0.4 if masked else None
    few = attention(query, reference, tokens, SIZES, valid)
    # The same queries among so many that values are projected first.
    among = attention(query.repeat(1, 12, 1), reference.repeat(1, 12, 1, 1), tokens, SIZES, valid)
    torch.testing.assert_close(few, among[:, :5])
