"""Processes that train together, and end together when one of them is gone.

A process that dies closes its connections, which the others meet as an error at their next exchange. One that is frozen, or
whose death the network hides, closes nothing: so each process also shows every second, in the store through which
they found each other, that it is alive. A thread shows it: a process whose main thread waits for ever, for a file or a lock,
is alive by this measure, and is not noticed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed as dist

from refseg import distributed
from refseg.errors import InvalidInput
from refseg.training.run_folder import saved_step

BEAT_SECONDS = 1.0
MOST_MISSED = 60
"""Beats that a process may miss: some libraries hold Python still while they read a large file."""
DOUBTED = 4
"""Missed beats after which a process is named where it is known already that one is gone."""

_LEFT = "left"
_PATIENCE = timedelta(seconds=10)  # for one answer of the store
_EXIT_CODE = 2


class ProcessLost(InvalidInput):
    """One of several processes is gone, and the others cannot go on."""


@contextmanager
def watch_peers(folder: Path) -> Iterator[None]:
    """While open, this process ends within seconds of another one's death; of several survivors the first one says so.

    Arguments:
        folder: of the run, to tell which state is in it.

    Raises:
        ProcessLost: if a process is gone, or a process that prepares batches was killed.
        Refused: if another process says so.
    """
    alone = distributed.world_size() == 1
    heart = None if alone else Heartbeat(distributed.rank(), distributed.world_size())
    if heart is not None:
        heart.start(lambda gone: _leave(gone, folder))
    try:
        yield
        distributed.wait()  # nobody leaves before all have done their part
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise ProcessLost(_without_worker(error, folder)) from error
        if heart is None or not _is_of_connection(error):
            raise
        _hear_no_launcher()
        gone = heart.gone()
        if _reports_loss(gone):
            raise ProcessLost(
                f"{_sentence(gone, folder)}; what this process met: {_first_line(error)}"
            ) from error
        raise distributed.PeerFailed from error
    finally:
        if heart is not None:
            heart.stop()


class Heartbeat:
    """A thread that shows that this process is alive, and looks whether the others are."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._ended = threading.Event()
        self._missed = dict.fromkeys(range(size), 0)  # beats of each process since it was last heard
        self._heard: dict[int, str] = {}
        self._thread: threading.Thread | None = None

    def start(self, on_loss: Callable[[list[int]], None]) -> None:
        """Begins; `on_loss` is called in the thread, with the processes that were silent for too long."""
        self._thread = threading.Thread(target=self._beat, args=(on_loss,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends; the others hear that this process left on purpose."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(2 * BEAT_SECONDS)  # it may wait for an answer that never comes

    def gone(self) -> list[int]:
        """The processes that left, or are silent, once some of them is known to be gone; empty if all still speak."""
        if self.size == 2:
            return [1 - self.rank]
        for _ in range(3 * DOUBTED):
            found = [rank for rank, missed in self._missed.items() if missed >= DOUBTED]
            if found:
                return found
            time.sleep(BEAT_SECONDS)
        return []

    def _beat(self, on_loss: Callable[[list[int]], None]) -> None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store, count = None, 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            try:
                store = store or dist.TCPStore(host, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]
                store.set(_key(self.rank), str(count))
                self._listen(store)
            except RuntimeError:  # the store is where the first process was, or its launcher
                self._missed[0] += DOUBTED
            lost = [rank for rank, missed in self._missed.items() if missed >= MOST_MISSED]
            if lost and not self._ended.is_set():
                on_loss(lost)
        with suppress(RuntimeError):  # the one that held the store may have left before
            if store is not None:
                store.set(_key(self.rank), _LEFT)

    def _listen(self, store: Any) -> None:
        for rank in range(self.size):
            if rank == self.rank:
                continue
            heard = store.get(_key(rank)).decode() if store.check([_key(rank)]) else ""
            is_alive = heard != self._heard.get(rank, "") and heard != _LEFT
            self._missed[rank] = 0 if is_alive else self._missed[rank] + 1
            self._heard[rank] = heard


def _key(rank: int) -> str:
    return f"refseg/alive/{rank}"


def _leave(gone: list[int], folder: Path) -> None:
    """Ends this process from beside its main thread, which may wait for the lost one for ever."""
    if _reports_loss(gone):
        print(f"refseg: {_sentence(gone, folder)}", file=sys.stderr, flush=True)
    os._exit(_EXIT_CODE)


def _reports_loss(gone: list[int]) -> bool:
    """Whether this process is the first of those that are left; each one speaks where it is not known who is."""
    return not gone or distributed.rank() == min(set(range(distributed.world_size())) - set(gone), default=0)


def _sentence(gone: list[int], folder: Path) -> str:
    size = distributed.world_size()
    which = f"process {' and '.join(map(str, gone))}" if gone else "another process"
    return f"{which} of {size} was lost (killed, or stopped by a mistake that it told of itself); {_state(folder)}"


def _first_line(error: RuntimeError) -> str:
    """Of what torch says: the rest is for those who know its inside."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _state(folder: Path) -> str:
    step = saved_step(folder)
    if step is None:
        return "no state was saved yet: start anew"
    return f"the state of step {step} is in {folder}: go on with --resume"


def _without_worker(error: RuntimeError, folder: Path) -> str:
    return (
        f"a process that prepares batches was killed, most often for want of memory ({error}); {_state(folder)}, with fewer "
        "data.workers or smaller batches"
    )


def _hear_no_launcher() -> None:
    """Launchers end the survivors of a lost process; this one ends by itself in seconds, once it has said why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_of_connection(error: RuntimeError) -> bool:
    told = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in told or "nccl" in told or "connection" in told
