"""Masks at a few points instead of everywhere, the points where a mask is least sure among them.

Source: "PointRend" (Kirillov et al., CVPR 2020), in the form of Mask2Former.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Draw = Callable[[int, int, torch.device], Tensor]
"""Rows and points to uniform places [rows, points, 2], (x, y) in [0, 1) of width and height."""


def uniform(rows: int, points: int, device: torch.device) -> Tensor:
    """Places from torch's global generator."""
    return torch.rand(rows, points, 2, device=device)


def at_points(maps: Tensor, places: Tensor) -> Tensor:
    """Values [N, K] of maps [N, h, w] at places [N, K, 2], bilinear between pixel centres, zero outside."""
    sampled = functional.grid_sample(
        maps[:, None], 2 * places[:, None] - 1, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled[:, 0, 0]


@torch.no_grad()
def uncertain_places(
    logits: Tensor, count: int, *, oversampling: float, uncertain_share: float, draw: Draw
) -> Tensor:
    """Places [N, count, 2] for mask logits [N, h, w]: of `oversampling` times as many candidates those whose logits are
    nearest to zero, as many as their share says, and uniform ones for the rest."""
    candidates = draw(len(logits), int(count * oversampling), logits.device)
    kept = int(count * uncertain_share)
    nearest = (-at_points(logits, candidates).abs()).topk(kept, dim=1).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    others = draw(len(logits), count - kept, logits.device)
    return torch.cat([chosen, others], dim=1)
