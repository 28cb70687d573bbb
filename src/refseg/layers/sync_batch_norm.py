"""Batch normalisation by the examples of all processes that train together, on any device.

Torch's own SyncBatchNorm computes on GPUs alone. Here every process tells count, mean and variance of its own values, and
all put them together alike; processes may hold unequally many.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg import distributed
from refseg.layers.precision import at_least_float32


def shared_moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C] of values [N, C, ...] over all processes, and how many values a channel has there [].

    Source: "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (Chan et al., 1979).
    """
    axes = [axis for axis in range(values.ndim) if axis != 1]
    variance, mean = torch.var_mean(at_least_float32(values), axes, correction=0)
    count = torch.full_like(mean, values.numel() // values.shape[1])
    own = torch.stack([count, mean, variance])
    told = own.new_zeros(distributed.world_size(), *own.shape)
    told[distributed.rank()] = own
    counts, means, variances = distributed.summed(told).unbind(1)  # [ranks, C] each
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, variance, total[0]


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all processes."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """A norm with the very parameters and buffers of `norm`."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name in ("weight", "bias"):
            setattr(shared, name, getattr(norm, name))
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(shared, name, buffer)
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        mean, variance, count = shared_moments(input)
        self._note(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        wide = at_least_float32(input)
        return (wide * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """The moving averages after a batch of unbiased `variance`."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_statistics(model: nn.Module) -> None:
    """From now on the batch norms of `model` normalise by the examples of all processes; names of weights stay.

    Norms of another kind that know `shares_statistics` are told.
    """
    for module in list(model.modules()):
        if hasattr(module, "shares_statistics"):
            module.shares_statistics = True  # type: ignore[assignment]
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SharedBatchNorm2d.of(child))
