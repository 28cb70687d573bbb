"""A run ends at the first loss or gradient that is no finite number, before it moves a weight, and keeps what led to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.training.evidence import Found, Scene, keep_evidence
from refseg.training.resume import LAST_NAME, saved_step

if TYPE_CHECKING:
    from refseg.training.log import Log
    from refseg.training.state import Training

_STEPS_ON_THE_WAY = 2
MOST_OVERFLOWS = 50
"""Steps in a row that float16 may skip: each halves the scale of the loss, so a gradient that is too large fits long before."""
NORM = "norm"
"""What the log calls the norm of the whole gradient."""


class NotFinite(InvalidInput):
    """A loss or a gradient that is no finite number; what led to it is kept beside the run."""


@dataclass(frozen=True)
class _Pending:
    """Numbers of a step that a device has not computed yet."""

    step: int
    names: tuple[str, ...]
    values: Tensor  # on its way to main memory
    ready: torch.cuda.Event


class Guard:
    """Looks at the numbers of every step.

    On a CPU it looks before the weights move. A GPU is not waited for: its numbers are looked at when they have arrived, a
    few steps later, the same number on all processes, and always before anything is saved.

    Arguments:
        may_overflow: in float16 a gradient too large for its type is met by skipping the step, and is no mistake, unless
            nothing else happens.
    """

    def __init__(self, scene: Scene, log: Log, *, may_overflow: bool = False) -> None:
        self._scene, self._log, self._may_overflow = scene, log, may_overflow
        self._pending: deque[_Pending] = deque()
        self._overflows = 0  # steps in a row

    def look(self, training: Training, terms: Mapping[str, Tensor], norm: Tensor) -> None:
        """Notes the numbers of the step under way, and judges those that are known: the mean terms of all processes.

        Raises:
            NotFinite: if one of them is not finite, on every process alike.
        """
        names = (*terms, NORM)
        values = torch.stack([*(term.detach().float() for term in terms.values()), norm.detach().float()])
        if _is_at_hand(values):
            self._judge(training, training.step + 1, names, values, is_untouched=True)
            return
        here, ready = _sent(values)
        self._pending.append(_Pending(training.step + 1, names, here, ready))
        self.settle(training, waits=False)

    def settle(self, training: Training, *, waits: bool = True) -> None:
        """Judges the steps whose numbers must have arrived, or with `waits` all that were noted; called before a save.

        Raises:
            NotFinite: as `look`.
        """
        # By the count of steps, not by what has arrived: all processes must stop at the same step.
        while len(self._pending) > (0 if waits else _STEPS_ON_THE_WAY):
            first = self._pending.popleft()
            first.ready.synchronize()
            self._judge(training, first.step, first.names, first.values, is_untouched=False)

    def _judge(
        self, training: Training, step: int, names: tuple[str, ...], values: Tensor, *, is_untouched: bool
    ) -> None:
        if bool(values.isfinite().all()):
            self._overflows = 0
            return
        told = dict(zip(names, values.tolist(), strict=True))
        broken = [name for name, value in told.items() if not math.isfinite(value)]
        if self._may_overflow and broken == [NORM]:
            self._overflows += 1
            if self._overflows < MOST_OVERFLOWS:
                return
        self._stop(training, step, told, broken, is_untouched=is_untouched)

    def _stop(
        self, training: Training, step: int, told: dict[str, float], broken: list[str], *, is_untouched: bool
    ) -> NoReturn:
        self._log.end_at(step, told)
        found = Found(step, told, tuple(broken), is_untouched)
        kept = keep_evidence(self._scene, training, found)
        is_stuck = self._overflows >= MOST_OVERFLOWS
        often = f", with this {MOST_OVERFLOWS} steps in a row that float16 has to skip" if is_stuck else ""
        advice = _advice(self._scene.folder, is_stuck=is_stuck)
        raise NotFinite(f"{broken[0]} became {told[broken[0]]} at step {step}{often}; {kept}; {advice}")


def _advice(folder: Path, *, is_stuck: bool) -> str:
    saved = saved_step(folder)
    change = "a lower optimizer.lr, an optimizer.clip_norm, or float32"
    if saved is None:
        return f"nothing was saved before: begin again with {change}"
    if is_stuck:  # its state may hold a scale of the loss that has become useless
        return f"the weights of step {saved} are sound: begin another run with init={folder / LAST_NAME} in bfloat16 or float32"
    return (
        f"the state of step {saved} is sound: mend the data and go on with --resume, or begin another run with "
        f"init={folder / LAST_NAME} and {change}"
    )


def _is_at_hand(values: Tensor) -> bool:
    """Whether reading the values makes nobody wait."""
    return values.device.type != "cuda"


def _sent(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """A place in main memory for values that a GPU has yet to compute, and what tells when they are there."""
    here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    here.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(values.device))
    return here, ready
