"""What a run says before its first step."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from refseg import distributed
from refseg.data.catalog import PhraseDataset
from refseg.data.leakage import shared_pictures
from refseg.files import write_durable_text
from refseg.training.config import RunConfig
from refseg.training.depths import told as layers_told
from refseg.training.log import Log
from refseg.training.refusals import doubts
from refseg.training.resume import LEAKAGE_NAME
from refseg.training.sources import SCENES, Sources
from refseg.training.state import Training


def tell_leakage(log: Log, examples: Sources, held_out: PhraseDataset | None, folder: Path) -> None:
    """What was left out because it is measured on, and what is learnt from all the same."""
    if examples.leakage is not None:
        for fallen in examples.leakage.fallen:
            log.say(str(fallen))
        if distributed.is_first():
            write_durable_text(folder / LEAKAGE_NAME, json.dumps(examples.leakage.record(), indent=1) + "\n")
    if held_out is None:
        return
    shared, total = shared_pictures([source.examples for source in examples.sources], held_out)
    if shared:
        log.say(
            f"{shared} of the {total} pictures that the run is measured on are learnt from too; data.exclude_images_of leaves "
            "their records out"
        )


def named(run: RunConfig) -> str:
    """The data of a run with its splits."""
    return " + ".join(f"{one.name}, {one.split}" for one in run.data.each)


def announce(
    log: Log, run: RunConfig, training: Training, *, origin: str, num_examples: int, device: torch.device
) -> None:
    """Says what is trained, on what, and how long."""
    parameters = list(training.model.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    many = "drawn, new ones at every step" if run.data.name == SCENES else f"{num_examples} examples"
    batch = run.run.batch_size * run.optimizer.accumulate * distributed.world_size()
    log.say(f"{run.family} {run.variant}: {total:.2f} M parameters, {trained:.2f} M trained, {origin}")
    log.say(f"data {named(run).replace(',', '')}: {many}, {batch} a step, {run.data.workers} workers")
    for line in layers_told(training.model, run.optimizer.layer_decay):
        log.say(line)
    log.say(f"{run.run.steps} steps on {device} in {run.run.precision}")
    for doubt in doubts(run, device):
        log.say(f"note: {doubt}")
