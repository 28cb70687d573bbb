"""The averaged weights follow the trained ones, quickly at first."""

import torch
from torch import nn

from refseg.training.state import AveragedModel


def test_the_average_moves_by_the_growing_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AveragedModel(model, 0.5)
    nn.init.ones_(model.weight)
    average.update(model, 0)  # decay 1/10: nine tenths of the way
    assert average.model.weight.item() == torch.tensor(0.9).item()
    average.update(model, 100)  # decay 0.5, the recipe's: half of what is left
    torch.testing.assert_close(average.model.weight, torch.tensor([[0.95]]))


def test_statistics_follow_and_counts_are_copied():
    model = nn.BatchNorm1d(1)
    average = AveragedModel(model, 0.5)
    model(torch.tensor([[10.0], [30.0]]))  # running mean 0.1 * 20
    average.update(model, 100)
    assert average.model.running_mean.item() == 1.0
    assert average.model.num_batches_tracked.item() == 1


def test_the_average_is_for_reading_only():
    average = AveragedModel(nn.Linear(2, 2), 0.9)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
