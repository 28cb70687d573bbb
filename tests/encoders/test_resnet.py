"""Shapes and strides of the ResNet; its numbers are proven by the parity cases."""

import pytest
import torch

from refseg.encoders.resnet import ResNet


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (33, 1)])
def test_maps_have_the_size_of_the_picture_over_their_stride_rounded_up(height, width):
    network = ResNet((1, 1, 1, 1), stem_width=4, bottleneck_width=2, stage_width=8)
    maps = network(torch.randn(2, 3, height, width))
    expected = [(2, 8 * 2**k, -(-height // (4 * 2**k)), -(-width // (4 * 2**k))) for k in range(4)]
    assert [tuple(level.shape) for level in maps] == expected


def test_only_convolutions_train():
    network = ResNet((1, 1, 1, 1), stem_width=4, bottleneck_width=2, stage_width=8)
    sum(level.sum() for level in network(torch.randn(1, 3, 40, 40))).backward()
    assert all(name.endswith("conv.weight") for name, _ in network.named_parameters())
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
def test_a_dilated_last_stage_keeps_its_resolution_and_looks_twice_as_far():
    torch.manual_seed(0)
    plain = ResNet((1, 1, 1, 3), stem_width=4, bottleneck_width=2, stage_width=8)
    dilated = ResNet((1, 1, 1, 3), stem_width=4, bottleneck_width=2, stage_width=8, is_dilated=True)
    dilated.load_state_dict(plain.state_dict())  # the same weights fit both
    maps = dilated(torch.randn(1, 3, 160, 160))
    assert maps[3].shape[-2:] == maps[2].shape[-2:] == (10, 10)
    reached = dilated.stages[3].requires_grad_(False)
    cells = torch.zeros(1, 32, 21, 21)
    cells[..., 10, 10] = 1
    seen = (reached(cells) - reached(cells * 0)).abs().sum(1)[0] > 0
    places = seen.nonzero() - 10
    assert set(places.abs().max(1).values.tolist()) <= {0, 1, 2, 3, 4, 5}
    assert (
        places.abs().max() > 3
    )  # a reach of 3 without dilation: 1 for each of three blocks; 1 + 2 + 2 with it
