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
