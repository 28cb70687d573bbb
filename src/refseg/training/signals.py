"""Ctrl-C, SIGTERM and a closed terminal, answered after the step that is under way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

REQUESTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

SAME_REQUEST_SECONDS = 1.0
"""Launchers and queues may send a signal twice; what follows the first one so soon is no second request."""

_FIRST = (
    b"refseg: asked to stop: the step under way ends and the state is saved; ask again to leave at once\n"
)
_SECOND = b"refseg: left at once; the last saved state is whole, go on with --resume\n"


class Interrupted(BaseException):
    """A run was asked to stop, and its state is saved; no Exception, which code in between might take for a mistake."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + number


class Interruption:
    """While open, notes the first request to stop instead of obeying it; a second one ends the process at once.

    The second one is obeyed by a thread, because Python answers signals between two of its own instructions only: a
    process that waits for another one, or is in the middle of a long computation, would not hear it.

    A signal that the process was told to ignore (SIGHUP under `nohup`) stays ignored. Outside the main thread, which
    alone may answer signals, nothing is noted.
    """

    def __init__(self, *, speaks: bool = False) -> None:
        self.number = 0  # of the signal that asked; 0 = none did
        self._speaks = speaks
        self._sentence: str | None = None  # with which to leave at once
        self._before: dict[int, Any] = {}
        self._wakeup_before = self._told = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._wakeup_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for number in REQUESTS:
            if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        threading.Thread(target=_leave_at_second, args=(heard, self._speaks), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._told != -1:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._told)  # ends the thread

    @contextmanager
    def at_once(self, sentence: str) -> Iterator[None]:
        """A part of the run that may be left anywhere, because the state was saved before: no need to wait for its end.

        Raises:
            Interrupted: with `sentence`, at a request in this part or before it.
        """
        self._sentence = sentence
        try:
            if self.number:
                raise Interrupted(self.number, sentence)
            yield
        finally:
            self._sentence = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first, self.number = self.number == 0, number
        if self._sentence is not None:
            sentence, self._sentence = self._sentence, None
            raise Interrupted(number, sentence)
        _tell(_FIRST, self._speaks and is_first)


def _leave_at_second(heard: int, speaks: bool) -> None:
    """Reads the numbers of signals as they come, and ends the process at the second request."""
    first = 0.0
    while told := os.read(heard, 1):
        number, now = told[0], time.monotonic()
        if number not in REQUESTS:
            continue  # such as the end of a process that prepares data
        if not first:
            first = now
        elif now - first > SAME_REQUEST_SECONDS:
            _tell(_SECOND, speaks)
            os._exit(128 + number)
    os.close(heard)


def _tell(line: bytes, speaks: bool) -> None:
    if not speaks:
        return
    try:
        os.write(2, line)
    except OSError:
        return  # the terminal is closed, which may be why the run was asked
