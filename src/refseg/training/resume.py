"""The full state of a run in one file, so that a run that was stopped ends exactly as one that was not."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg import distributed
from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.files import durable_file, reason
from refseg.training.config import RunConfig, differences, read_recipe
from refseg.training.log import LOG_NAME

RUN_NAME, STATE_NAME = "run.toml", "state.pt"
LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"
LEAKAGE_NAME = "leakage.json"
CARD_NAME = "card.json"
OWN_FILES = (STATE_NAME, LAST_NAME, BEST_NAME, LOG_NAME, LEAKAGE_NAME, CARD_NAME, RUN_NAME)
"""All that a run leaves in its folder, but for README.md, in which a person may have written.

In the order in which they are thrown away: a state never stays without its recipe.
"""

SUMMARY_NAME = "summary.json"
OWN_PATTERNS = ("best-at-*.safetensors", "adapters.safetensors", SUMMARY_NAME, "events.out.tfevents.*")
"""Further ones, of runs that ask for them."""

LAYOUT = 3


def save_state(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes plain data and tensors as the state of the run in `folder`, whole or not at all.

    The file replaces the old one only after its bytes have reached the disk, so that a machine that stops at any
    moment leaves one whole state.

    Raises:
        InvalidInput: if the file cannot be written (no room, no permission).
    """
    path = folder / STATE_NAME
    try:
        with durable_file(path) as part, part.open("wb") as file:
            torch.save({"layout": LAYOUT, **values}, file)
    except (OSError, RuntimeError) as error:  # torch hides what the system said behind an error of its own
        raise InvalidInput(
            f"the state of the run cannot be written to {path}: {reason(error)}; {_left(folder)}"
        ) from error


def _left(folder: Path) -> str:
    step = saved_step(folder)
    if step is None:
        return "no state was saved before; make room, or give another folder, and start again"
    return f"the state of step {step} stays; make room and go on with --resume"


def saved_step(folder: Path) -> int | None:
    """The step of the state in `folder`; None where there is none that can be read. Weights are not read."""
    try:
        values = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True, mmap=True)
        return int(values["step"])
    except Exception:  # torch raises many kinds for a damaged file
        return None


def tidy_and_load_state(folder: Path) -> dict[str, Any] | None:
    """The state last saved in `folder`, on the CPU; None if there is none. Files that a kill left half written go.

    Raises:
        InvalidInput: if the file is damaged or of another layout.
    """
    for name in (*OWN_FILES, *OWN_PATTERNS, "README.md"):
        for half in folder.glob(f".{name.partition('.')[0].rstrip('*')}*.part*"):
            half.unlink(missing_ok=True)
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InvalidInput(f"the state {path} cannot be read: {error}") from error
    if values.get("layout") != LAYOUT:
        raise InvalidInput(
            f"the state {path} has layout {values.get('layout')}; this refseg reads {LAYOUT}: finish the run with the "
            "refseg that began it, or start anew from its last checkpoint (init=)"
        )
    return values


def is_of_step(path: Path, step: int) -> bool:
    """Whether the checkpoint at `path` is whole, and a run saved it after `step`."""
    try:
        return native.read_header(path).origin.get("step") == str(step)
    except InvalidInput:
        return False


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


def must_begin_alike(folder: Path, run: RunConfig) -> None:
    """Refuses to begin at the first step in a folder without a state, unless nothing there is lost or contradicted by it.

    A state is on the disk before the first checkpoint is, so checkpoints without one are a result, whose state was taken
    away. A recipe alone is that of a run which was killed before its first save.

    Raises:
        InvalidInput: naming the checkpoints, or the keys in which the recipes differ.
    """
    kept = [path.name for path in own_files(folder) if path.suffix == ".safetensors"]
    if kept:
        raise InvalidInput(
            f"{folder} holds {', '.join(kept)} and no {STATE_NAME} to go on from; begin another run with init={folder / kept[0]} "
            "and another --out, or throw this one away by --force"
        )
    if (folder / RUN_NAME).exists():
        must_be_same_run(folder, run)


def random_states() -> dict[str, Any]:
    """The state of every global random generator, as tensors and plain data."""
    kind, numbers, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states() if torch.cuda.is_initialized() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(numbers, dtype=np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def _cuda_states() -> list[Tensor]:
    # Asking for a GPU's state takes memory on it, and each of several processes has one of its own.
    if distributed.world_size() > 1:
        return [torch.cuda.get_rng_state()]
    return torch.cuda.get_rng_state_all()


def _restore_cuda(states: list[Tensor]) -> None:
    if distributed.world_size() == 1 and len(states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states)
    else:  # saved by another number of processes, or on another number of GPUs
        torch.cuda.set_rng_state(states[0])


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Gives every global random generator the state it had."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():  # a run may move to another device, without exactness
        _restore_cuda(states["cuda"])
    kind, numbers, *rest = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_all(seed: int) -> None:
    """Seeds every global random generator; models that draw (dropout, first weights) use torch's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def own_files(folder: Path) -> list[Path]:
    """What a run has left in `folder`; other files there are not its own."""
    named = [folder / name for name in OWN_FILES if (folder / name).exists()]
    return named + sorted(path for pattern in OWN_PATTERNS for path in folder.glob(pattern))
