"""The log of a run for TensorBoard: the numbers of log.jsonl as event files in the same folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refseg.errors import InvalidInput
from refseg.training.log import LOG_NAME

_FACTS = frozenset({"lr", "norm", "seconds", "waiting", "skipped"})


class Board:
    """Event files of one run.

    A run that goes on begins a new file that withdraws what earlier ones say of later steps, so that no step is shown twice.

    Arguments:
        step: the last step that stays as earlier files show it; 0 withdraws all.

    Raises:
        InvalidInput: if tensorboardX is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InvalidInput(
                "run.tensorboard needs tensorboardX, which is not installed: pip install 'refseg[train]', or set "
                "run.tensorboard = false"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds one line of the log: losses, facts about the step, or scores of a measurement."""
        step = line["step"]
        for name, value in line.get("evaluation", {}).items():
            self._writer.add_scalar(f"evaluation/{name}", value, step)
        for name, value in line.items():
            if name in ("step", "evaluation") or not isinstance(value, int | float):
                continue
            self._writer.add_scalar(f"step/{name}" if name in _FACTS else f"loss/{name}", value, step)

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


def board_of(folder: Path, step: int, *, is_wanted: bool) -> Board | None:
    """The board of a run in `folder` that has done `step` steps; None where nobody asked for one.

    What the log holds of the last step is shown anew: a measurement that was shown may not have been saved.
    """
    if not is_wanted:
        return None
    board, log = Board(folder, step - 1 if step else 0), folder / LOG_NAME
    if step and log.exists():
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[-2:]]
        for line in lines:
            if line.get("step") == step:
                board.write(line)
    return board
