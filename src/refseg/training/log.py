"""What a run tells: one JSON line per step in a file, one readable line per interval on the terminal."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.files import reason, write_durable_text
from refseg.training.watch import Watch

if TYPE_CHECKING:
    from refseg.training.board import Board

LOG_NAME = "log.jsonl"


class Log:
    """The log of one run.

    Numbers of a step stay on their device until the interval ends, so that a fast device need not wait for every one.

    Arguments:
        is_kept: whether the file is written; of several processes the first one's is.
        may_overflow: in float16 a gradient too large for its type is met by skipping the step, and is no mistake.
        workers: the processes that prepare batches, for advice where they are too few.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        is_quiet: bool = False,
        is_kept: bool = True,
        may_overflow: bool = False,
        workers: int = 0,
    ) -> None:
        self.total, self.is_quiet = total, is_quiet
        self._watch = Watch(self.say, workers=workers)
        self._unchecked = {"norm"} if may_overflow else set()
        self._path = folder / LOG_NAME if is_kept else Path(os.devnull)
        self._file = self._path.open("a", encoding="utf-8")
        self._pending: list[tuple[dict[str, Any], list[str], Tensor]] = []
        self.board: Board | None = None  # that shows the same numbers

    def step(self, step: int, terms: Mapping[str, Tensor], facts: Mapping[str, float]) -> None:
        """Notes one step: its loss terms (tensors without gradient) and plain facts about it."""
        values = torch.stack([term.float() for term in terms.values()])
        self._pending.append(({"step": step, **facts}, list(terms), values))

    def flush(self) -> None:
        """Writes what was noted, and prints one line about it.

        Raises:
            InvalidInput: if a loss was not a finite number; the steps up to it are written. Or if the file cannot be.
        """
        if not self._pending:
            return
        numbers = torch.stack([values for _, _, values in self._pending]).tolist()
        lines = []
        for (facts, names, _), row in zip(self._pending, numbers, strict=True):
            lines.append({**facts, **dict(zip(names, row, strict=True))})
        self._pending = []
        for line in lines:
            _must_be_finite(line, self._unchecked)
            self._write(line)
        self._flush()
        self.say(_summary(lines, self.total))
        self._watch.interval(lines)

    def end_at(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the steps that were noted, and the numbers of one that will not be finished; says nothing."""
        pending, self._pending = [facts for facts in self._pending if facts[0]["step"] < step], []
        for facts, names, numbers in pending:
            self._write({**facts, **dict(zip(names, numbers.tolist(), strict=True))})
        self._write({"step": step, **values})
        self._flush()

    def result(self, step: int, scores: Mapping[str, float]) -> None:
        """Writes and prints what an evaluation found."""
        self._write({"step": step, "evaluation": dict(scores)})
        self._flush()
        self.say(
            f"step {step} evaluation  " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )

    def say(self, line: str) -> None:
        """Prints a line unless the run is quiet, or nobody reads any longer (the terminal was closed)."""
        if self.is_quiet:
            return
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            self.is_quiet = True

    def sync(self) -> None:
        """Brings what was written to the disk.

        Raises:
            InvalidInput: if the file cannot be written.
        """
        with self._told():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
        if self.board is not None:
            self.board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._told():
            self._file.write(json.dumps({name: _short(value) for name, value in line.items()}) + "\n")
        if self.board is not None:
            self.board.write(line)

    def _flush(self) -> None:
        with self._told():
            self._file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInput(
                f"the log {self._path} cannot be written: {reason(error)}; the state that was saved last stays: make room "
                "and go on with --resume"
            ) from error


def cut_log(folder: Path, step: int, *, keeps_measurement: bool = True) -> None:
    """Drops the lines of steps after `step`, and without `keeps_measurement` what was measured then.

    A resumed run writes them anew.
    """
    path = folder / LOG_NAME
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _is_before(line, step, keeps_measurement)]
    write_durable_text(path, "".join(f"{line}\n" for line in kept))


def _is_before(line: str, step: int, with_measurement: bool) -> bool:
    try:
        told = json.loads(line)
        return told["step"] < step or (
            told["step"] == step and (with_measurement or "evaluation" not in told)
        )
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # the last line of a killed run may be cut in the middle


def _must_be_finite(line: Mapping[str, Any], unchecked: Collection[str]) -> None:
    broken = [name for name, value in line.items() if not math.isfinite(value) and name not in unchecked]
    if broken:
        raise InvalidInput(
            f"{broken[0]} became {line[broken[0]]} at step {line['step']}; the last saved state is sound: lower "
            "optimizer.lr, set optimizer.clip_norm, or train in float32"
        )


def _summary(lines: list[dict[str, Any]], total: int) -> str:
    last = lines[-1]
    fixed = ("step", "lr", "seconds", "waiting", "norm", "skipped")
    seconds = sum(line["seconds"] for line in lines) / len(lines)
    waiting = sum(line["waiting"] * line["seconds"] for line in lines) / len(lines) / max(seconds, 1e-9)
    shown = [
        name for name in last if name not in fixed and not re.search(r"_\d+$", name)
    ]  # layers are in the file
    losses = "  ".join(f"{name} {sum(line[name] for line in lines) / len(lines):.4f}" for name in shown)
    left = seconds * (total - last["step"])
    skipped = sum(line.get("skipped", 0) for line in lines)
    return (
        f"step {last['step']}/{total}  {losses}  norm {last['norm']:.2f}  lr {last['lr']:.2e}  "
        f"{seconds:.3f} s/step  data {waiting:.0%}  left {duration(left)}"
        + (f"  skipped {skipped}" if skipped else "")
    )


def duration(seconds: float) -> str:
    """Such as 2h05m or 3m07s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON knows no infinity
