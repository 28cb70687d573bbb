"""A measurement in the middle of a run."""

from __future__ import annotations

from collections import defaultdict

import torch

from refseg.data.collate import collate
from refseg.models.base import ReferringModel
from refseg.training.feed import ExampleSet, count_of


@torch.no_grad()
def evaluate_during_training(
    model: ReferringModel, examples: ExampleSet, *, count: int, device: torch.device
) -> dict[str, float]:
    """Mean IoU of the first `count` examples at source size, over all phrases and per register."""
    model.eval()
    found: dict[str, list[float]] = defaultdict(list)
    limit = count_of(examples)
    for index in range(count if limit is None else min(count, limit)):
        example = examples[index]
        batch = collate([example], model.config.frame).to(device)
        assert example.masks is not None
        answers = model.finish(model(batch), batch.placements * len(batch.phrases))
        registers = example.registers or ("all",) * len(answers)
        for register, answer, mask in zip(registers, answers, example.masks, strict=True):
            both, either = (answer.cpu() & mask).sum(), (answer.cpu() | mask).sum()
            overlap = float(both / either) if either else 1.0
            found["mIoU"].append(overlap)
            found[f"mIoU {register}"].append(overlap)
    return {name: sum(values) / len(values) for name, values in found.items()}
