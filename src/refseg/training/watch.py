"""What goes wrong slowly: a loss that explodes, data that comes too late; each is said once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Any

from refseg.training.room import usable_cores

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
            self._once("starving", _starved(waiting, self._workers, usable_cores(), lines[-1]["step"]))

    def _once(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(sentence)


def _starved(waiting: float, workers: int, cores: int, step: int) -> str:
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
