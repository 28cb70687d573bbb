"""What stays the same while a run trains: its folder, device, log, check of finite numbers and validation set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from refseg.data.dataset import PhraseDataset
from refseg.models.base import Objective
from refseg.training.finite_check import FiniteCheck
from refseg.training.log import Log
from refseg.training.schema import RunConfig


@dataclass(frozen=True)
class RunContext:
    """All that stays while a run goes on."""

    run: RunConfig
    folder: Path
    device: torch.device
    objective: Objective
    held_out: PhraseDataset | None  # what the run is measured on
    log: Log
    guard: FiniteCheck
