"""Which candidate query answers for the one object that a phrase refers to."""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.losses.masks import ALPHA, GAMMA

LOG_EPS = 1e-8  # keeps the logarithm of a certain score finite


def cheapest(costs: Tensor) -> Tensor:
    """The query of lowest cost [P] of costs [P, Q]; with one object a phrase this is optimal assignment.

    A cost that is not a number counts as infinite, so that training fails at the loss, with its name, and not here.
    """
    return costs.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=1)


def class_cost(logits: Tensor) -> Tensor:
    """How badly each class logit serves as "this class": focal gain of saying yes minus that of saying no.

    Source: the matching cost of "Deformable DETR" (Zhu et al., 2021).
    """
    scores = logits.sigmoid()
    yes = ALPHA * (1 - scores).pow(GAMMA) * -(scores + LOG_EPS).log()
    no = (1 - ALPHA) * scores.pow(GAMMA) * -(1 - scores + LOG_EPS).log()
    return yes - no
