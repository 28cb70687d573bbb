"""The objective of a run: the family's loss of phrases, or one of its named objectives."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from refseg.errors import InvalidInput, UnknownName
from refseg.models.base import Objective, ReferringModel
from refseg.models.family import Family
from refseg.structures import Batch
from refseg.training.initial_weights import with_changes
from refseg.training.schema import PRECISIONS, RunConfig


def build_objective(family: Family, run: RunConfig) -> Objective:
    """The function from model and batch to named, weighted terms, in the precision of the run.

    Raises:
        UnknownName: if the family has no objective of that name, or a changed field of its loss does not exist.
        InvalidInput: if the recipe changes the loss of phrases beside a named objective.
    """
    check_objective(family, run)
    dtype = PRECISIONS[run.run.precision]
    criterion = family.criterion(with_changes(family.loss, run.loss, "loss"))

    def phrases(model: ReferringModel, batch: Batch) -> dict[str, Tensor]:
        if batch.targets is None:
            raise InvalidInput(
                f"the data set {run.data.name}, split {run.data.split}, carries no masks to learn from"
            )
        with _autocast(batch, dtype):
            output = model(batch)
        # Losses sum over many pixels and lose digits in half precision.
        return criterion(output.to(dtype=torch.float32), batch.targets)

    def named(model: ReferringModel, batch: Batch) -> dict[str, Tensor]:
        with _autocast(batch, dtype):
            return family.objectives[run.objective](model, batch)

    return phrases if run.objective == "phrases" else named


def check_objective(family: Family, run: RunConfig) -> None:
    """Refuses an objective that the family does not have, and changes of a loss that the objective would not heed.

    Raises:
        UnknownName: if there is no objective of that name.
        InvalidInput: if there is a [loss] beside a named objective.
    """
    if run.objective == "phrases":
        return
    if run.objective not in family.objectives:
        raise UnknownName(f"objective of {family.name}", run.objective, ["phrases", *family.objectives])
    if run.loss:
        raise InvalidInput(
            f"[loss] changes {', '.join(run.loss)}, and the objective {run.objective!r} has a fixed loss of its own; leave [loss] "
            'out, or set objective = "phrases"'
        )


def _autocast(batch: Batch, dtype: torch.dtype) -> AbstractContextManager[object]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(batch.clips.pixels.device.type, dtype)
