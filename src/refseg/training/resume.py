"""The full state of a run in one file, so that a run that was stopped ends exactly as one that was not."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refseg.errors import InvalidInput
from refseg.training.config import RunConfig, differences, read_recipe
from refseg.training.log import LOG_NAME

RUN_NAME, STATE_NAME = "run.toml", "state.pt"
LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"
LEAKAGE_NAME = "leakage.json"
CARD_NAME = "card.json"
OWN_FILES = (RUN_NAME, STATE_NAME, LAST_NAME, BEST_NAME, LOG_NAME, LEAKAGE_NAME, CARD_NAME)
"""All that a run leaves in its folder, but for README.md, in which a person may have written."""

LAYOUT = 2


def save_state(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes plain data and tensors as the state of the run in `folder`, whole or not at all.

    The file replaces the old one only after its bytes have reached the disk, so that a machine that stops at any
    moment leaves one whole state.

    Raises:
        InvalidInput: if the file cannot be written (no room, no permission).
    """
    path, part = folder / STATE_NAME, folder / f".{STATE_NAME}.part"
    try:
        with part.open("wb") as file:
            torch.save({"layout": LAYOUT, **values}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise InvalidInput(f"the state of the run cannot be written to {path}: {error}") from error


def tidy_and_load_state(folder: Path) -> dict[str, Any] | None:
    """The state last saved in `folder`, on the CPU; None if there is none. Files that a kill left half written go.

    Raises:
        InvalidInput: if the file is damaged or of another layout.
    """
    for half in folder.glob(".*.part"):
        half.unlink()
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InvalidInput(f"the state {path} cannot be read: {error}") from error
    if values.get("layout") != LAYOUT:
        raise InvalidInput(f"the state {path} has layout {values.get('layout')}; this refseg reads {LAYOUT}")
    return values


def must_be_same_run(folder: Path, run: RunConfig) -> None:
    """Refuses to go on with a run whose recipe differs in what it computes.

    Raises:
        InvalidInput: naming the keys that differ.
    """
    differing = differences(read_recipe(folder / RUN_NAME), run)
    if differing:
        raise InvalidInput(
            f"the run in {folder} was started with another value of {', '.join(differing)}; resume it with its own "
            f"{folder / RUN_NAME}, or start anew in another folder with --out"
        )


def random_states() -> dict[str, Any]:
    """The state of every global random generator, as tensors and plain data."""
    kind, numbers, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(numbers, dtype=np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Gives every global random generator the state it had."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():  # a run may move to another device, without exactness
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, numbers, *rest = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_all(seed: int) -> None:
    """Seeds every global random generator; models that draw (dropout, first weights) use torch's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
