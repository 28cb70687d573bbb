"""The log of a run: one JSON line per step, a readable line per interval, TensorBoard, and warnings of slow trends."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.files import reason, write_durable_text
from refseg.training.resources import usable_cores
from refseg.training.run_folder import LOG_NAME

REMEMBERED = 100
"""Steps whose median is what a loss, or a gradient's norm, is compared with."""


EXPLODED = {"loss": 4.0, "norm": 10.0}
"""Times the median from which on an interval is suspicious; norms jump more than losses do."""


INTERVALS = 3
"""Suspicious intervals in a row, or intervals of waiting, before a word is said."""


STARVED = 0.2
"""The share of a step spent waiting for data that a run should not exceed."""


_FEWEST_STEPS = 20  # that a median is made of


class Watch:
    """Looks at the intervals of a run's log.

    Arguments:
        say: prints a line.
        workers: the processes that prepare batches.
    """

    def __init__(self, say: Callable[[str], None], *, workers: int) -> None:
        self._say, self._workers = say, workers
        self._known = {name: deque[float](maxlen=REMEMBERED) for name in EXPLODED}
        self._suspicious = dict.fromkeys(EXPLODED, 0)
        self._waited = 0
        self._is_begun = False
        self._said: set[str] = set()

    def interval(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Looks at the steps of one interval."""
        for name, times in EXPLODED.items():
            values = [line[name] for line in lines if math.isfinite(line.get(name, math.nan))]
            if values:
                self._exploding(name, times, values, lines[-1]["step"])
        self._starving(lines)

    def _exploding(self, name: str, times: float, values: list[float], step: int) -> None:
        known = self._known[name]
        usual = median(known) if len(known) >= _FEWEST_STEPS else None
        if usual is None or usual <= 0 or mean(values) <= times * usual:
            known.extend(values)
            self._suspicious[name] = 0
            return
        self._suspicious[name] += 1  # such values do not enter the median, or they would soon be usual
        if self._suspicious[name] == INTERVALS:
            what = "loss" if name == "loss" else "gradient's norm"
            self._once(
                name,
                f"step {step}: the {what} has been more than {times:.0f} times its usual {usual:.4g} for {INTERVALS} intervals, now "
                f"{mean(values):.4g}; if it does not come back, stop, and begin again with a lower optimizer.lr, a longer "
                "schedule.warmup_steps or a smaller optimizer.clip_norm",
            )

    def _starving(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if not self._is_begun:
            self._is_begun = True  # the first batches always come late: workers have just started
            return
        seconds = sum(line["seconds"] for line in lines)
        waiting = sum(line["waiting"] * line["seconds"] for line in lines) / max(seconds, 1e-9)
        self._waited = self._waited + 1 if waiting > STARVED else 0
        if self._waited == INTERVALS:
            self._once(
                "starving", _describe_starving(waiting, self._workers, usable_cores(), lines[-1]["step"])
            )

    def _once(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(sentence)


def _describe_starving(waiting: float, workers: int, cores: int, step: int) -> str:
    """What to do about a device that waits for its data."""
    told = f"step {step}: {waiting:.0%} of the time is spent waiting for data"
    # What is prepared in a step takes `waiting` of it with no worker, and all of it with some that never rest.
    busy = waiting if workers == 0 else float(workers)
    wanted = max(workers + 1, math.ceil(busy / max(1e-9, 1 - waiting)))
    if wanted <= cores:
        return (
            f"{told}; data.workers={wanted} would prepare batches beside the steps (--resume with it goes on)"
        )
    more = f"; data.workers={cores} uses every core" if workers < cores else ""
    return (
        f"{told}, and the {cores} cores that this process may use are too few to prepare it{more}; smaller pictures, fewer steps of "
        "data.augment or files on a faster disk help"
    )


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
            _check_finite(line, self._unchecked)
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


def _check_finite(line: Mapping[str, Any], unchecked: Collection[str]) -> None:
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
        # The name of an event file ends with the second it was begun in; two of one second are told apart by their number.
        number = len(list(folder.glob("events.out.tfevents.*")))
        self._writer = SummaryWriter(
            str(folder), purge_step=step + 1, flush_secs=10, filename_suffix=f".{number}"
        )

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
