"""Names of the files in a run folder, and which step they are of: what resume and checkpointing read and write."""

from __future__ import annotations

from pathlib import Path

import torch

from refseg.checkpoints import native
from refseg.errors import InvalidInput

LOG_NAME = "log.jsonl"


RUN_NAME, STATE_NAME = "run.toml", "state.pt"


LAST_NAME, BEST_NAME = "last.safetensors", "best.safetensors"


ADAPTERS_NAME = "adapters.safetensors"


LEAKAGE_NAME = "leakage.json"


CARD_NAME = "card.json"


OWN_FILES = (STATE_NAME, LAST_NAME, BEST_NAME, LOG_NAME, LEAKAGE_NAME, CARD_NAME, RUN_NAME)
"""All that a run leaves in its folder, but for README.md, in which a person may have written.

In the order in which they are thrown away: a state never stays without its recipe.
"""


SUMMARY_NAME = "summary.json"


OWN_PATTERNS = ("best-at-*.safetensors", "adapters.safetensors", SUMMARY_NAME, "events.out.tfevents.*")
"""Further ones, of runs that ask for them."""


def saved_step(folder: Path) -> int | None:
    """The step of the state in `folder`; None where there is none that can be read. Weights are not read."""
    try:
        values = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True, mmap=True)
        return int(values["step"])
    except Exception:  # torch raises many kinds for a damaged file
        return None


def is_of_step(path: Path, step: int) -> bool:
    """Whether the checkpoint at `path` is whole, and a run saved it after `step`."""
    try:
        return native.read_header(path).origin.get("step") == str(step)
    except InvalidInput:
        return False


def own_files(folder: Path) -> list[Path]:
    """What a run has left in `folder`; other files there are not its own."""
    named = [folder / name for name in OWN_FILES if (folder / name).exists()]
    return named + sorted(path for pattern in OWN_PATTERNS for path in folder.glob(pattern))
