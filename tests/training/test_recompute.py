"""Blocks that forget their activations compute the same gradients and keep less."""

import pytest
import torch
from torch import nn

from refseg.errors import InvalidInput
from refseg.training.state import recompute_activations


class Blocks(nn.Module):
    def __init__(self, named=True):
        super().__init__()
        torch.manual_seed(0)
        make = [
            nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 8)) for _ in range(3)
        ]
        self.blocks, self.named = nn.ModuleList(make), named

    def recomputed_blocks(self):
        return list(self.blocks) if self.named else []

    def forward(self, rows):
        for block in self.blocks:
            rows = rows + block(rows)
        return rows


def gradients(model):
    torch.manual_seed(1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(torch.randn(5, 8)).square().sum()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()], sum(kept)


def test_gradients_are_the_same_with_dropout_and_less_is_kept():
    plain, much = gradients(Blocks().train())
    model = Blocks().train()
    recompute_activations(model)
    again, little = gradients(model)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    assert little < much / 3


def test_names_of_weights_stay():
    model = Blocks()
    names = list(model.state_dict())
    recompute_activations(model)
    assert list(model.state_dict()) == names


def test_evaluation_does_not_compute_again():
    model = Blocks().eval()
    recompute_activations(model)
    with torch.no_grad():
        assert model(torch.ones(2, 8)).shape == (2, 8)


def test_a_model_without_such_blocks_is_told():
    with pytest.raises(InvalidInput, match="Blocks has no blocks that can be computed again"):
        recompute_activations(Blocks(named=False))
