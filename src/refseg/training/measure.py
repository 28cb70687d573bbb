"""A measurement in the middle of a run: what the weights so far are worth on examples that training does not see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from refseg.data.collate import collate
from refseg.models.base import ReferringModel
from refseg.structures import Batch
from refseg.training.feed import ExampleSet


@dataclass(frozen=True)
class Measurement:
    """Named numbers, and the one by which the best checkpoint is chosen."""

    scores: Mapping[str, float]
    quality: float  # higher is better


@torch.no_grad()
def measure_phrases(model: ReferringModel, examples: ExampleSet, *, device: torch.device) -> Measurement:
    """Mean IoU at source size, over all phrases and per register."""
    model.eval()
    found: dict[str, list[float]] = defaultdict(list)
    for index in range(len(examples)):
        example = examples[index]
        if not example.phrases:
            continue
        batch = collate([example], model.config.frame).to(device)
        assert example.masks is not None
        answers = model.finish(model(batch), batch.placements * len(batch.phrases))
        registers = example.registers or ("all",) * len(answers)
        for register, answer, mask in zip(registers, answers, example.masks, strict=True):
            both, either = (answer.cpu() & mask).sum(), (answer.cpu() | mask).sum()
            overlap = float(both / either) if either else 1.0
            found["mIoU"].append(overlap)
            found[f"mIoU {register}"].append(overlap)
    scores = {name: sum(values) / len(values) for name, values in found.items()}
    return Measurement(scores, quality=scores["mIoU"])


@torch.no_grad()
def measure_objective(
    model: ReferringModel,
    examples: ExampleSet,
    objective: Callable[[ReferringModel, Batch], dict[str, Tensor]],
    *,
    batch_size: int,
    device: torch.device,
) -> Measurement:
    """The mean terms of a named objective; the smaller their sum, the better."""
    model.eval()
    totals: dict[str, float] = defaultdict(float)
    for start in range(0, len(examples), batch_size):
        numbers = range(start, min(start + batch_size, len(examples)))
        batch = collate([examples[index] for index in numbers], model.config.frame)
        for name, term in objective(model, batch.to(device)).items():
            totals[name] += float(term) * len(numbers) / len(examples)
    return Measurement(dict(totals), quality=-sum(totals.values()))
