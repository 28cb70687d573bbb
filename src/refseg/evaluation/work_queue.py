"""Work dealt out over several processes: whoever is free takes the next item, and the first process brings all together.

Items are taken from a counter that all processes share, so that nothing is done twice or left out, however long each takes.
What one gives goes to the first process as text. Nobody waits for ever: a process that fails says so before it leaves, and
one that is killed leaves a broken connection.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import torch
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from refseg import distributed
from refseg.errors import InvalidInput

Item = TypeVar("Item")
Gift = TypeVar("Gift")
Answer = TypeVar("Answer")

_PAUSE = 0.01  # seconds between two looks
_PATIENCE = timedelta(minutes=5)  # until a lost connection counts as such
_NEXT, _FAILED = "next", "failed"


@dataclass(frozen=True)
class Codec(Generic[Gift]):
    """How what an item gives is told in text, and read again."""

    write: Callable[[Gift], str]
    read: Callable[[str], Gift]


def distribute(items: Sequence[Item], work: Callable[[Item], Gift], form: Codec[Gift]) -> Iterator[Gift]:
    """What `work` gives for every item, in their order, on the first process; on the others what they gave themselves.

    All processes ask for it together, with the same items, and all of them go through to the end.

    Raises:
        Exception: what `work` raised, on the process where it did first.
        Refused: on all others, after that.
        InvalidInput: on the first process, if another one was killed.
    """
    if distributed.world_size() == 1:
        yield from map(work, items)
        return
    table, speaks = _Table(), False
    error: Exception | None = None
    try:
        yield from (
            _work_together(items, work, form, table)
            if distributed.is_first()
            else _work_alone(items, work, form, table)
        )
    except distributed.PeerFailed as refusal:
        error = refusal
    except Exception as raised:
        error, speaks = raised, table.claims_failure()
    others_failed = table.meet(has_failed=error is not None)
    if error is not None and speaks:
        raise error
    if error is not None or others_failed:
        raise distributed.PeerFailed


def _work_alone(
    items: Sequence[Item], work: Callable[[Item], Gift], form: Codec[Gift], table: _Table
) -> Iterator[Gift]:
    for place in table.turns(len(items)):
        gift = work(items[place])
        table.put(place, form.write(gift))
        yield gift


def _work_together(
    items: Sequence[Item], work: Callable[[Item], Gift], form: Codec[Gift], table: _Table
) -> Iterator[Gift]:
    told = 0
    own: dict[int, Gift] = {}
    for place in table.turns(len(items)):
        own[place] = work(items[place])
        while told in own or (told < len(items) and table.has(told)):
            yield own.pop(told) if told in own else form.read(table.take(told))
            told += 1
    while told < len(items):
        yield own.pop(told) if told in own else form.read(table.wait_for(told))
        told += 1


class _Table:
    """What all processes see: the counter of items taken, and what those that are done gave."""

    def __init__(self) -> None:
        host = os.environ.get("MASTER_ADDR") or socket.gethostname()
        size = distributed.world_size()
        store = _store(host, 0, size, is_first=True) if distributed.is_first() else None
        port = distributed.broadcast(None if store is None else store.port)
        assert port is not None, "the first process has told it"
        self._store = store or _store(host, port, size, is_first=False)
        # The first process learns from it that all others have come to the end, or that one is gone.
        self._end = self._all_at_end() if distributed.is_first() else None

    def turns(self, count: int) -> Iterator[int]:
        """The items that are this process's, one by one."""
        while not self._somebody_failed():
            place = self._ask(lambda: self._store.add(_NEXT, 1)) - 1
            if place >= count:
                return
            yield place
        raise distributed.PeerFailed

    def put(self, place: int, text: str) -> None:
        """Tells the first process what an item gave."""
        self._ask(lambda: self._store.set(str(place), text))

    def has(self, place: int) -> bool:
        """Whether another process has told what an item gave."""
        return bool(self._store.check([str(place)]))

    def take(self, place: int) -> str:
        """What it told, which is forgotten."""
        text = self._store.get(str(place)).decode()
        self._store.delete_key(str(place))
        return text

    def wait_for(self, place: int) -> str:
        """As `take`, when it is there."""
        assert self._end is not None, "the first process alone waits"
        while not self.has(place):
            if self._somebody_failed():
                raise distributed.PeerFailed
            if self._end.is_completed() and not self.has(place):
                raise self._killed()
            time.sleep(_PAUSE)
        return self.take(place)

    def meet(self, *, has_failed: bool) -> bool:
        """Whether another process has failed; told when all have come to the end, well or not.

        Raises:
            InvalidInput: on the first process, if another one was killed.
        """
        try:
            (self._end or self._all_at_end()).wait()
            return distributed.any_of(has_failed, torch.device("cpu"))
        except RuntimeError:  # a broken connection
            if distributed.is_first() and not has_failed:
                raise self._killed() from None
            return True

    def claims_failure(self) -> bool:
        """Whether this process is the first that fails, and speaks."""
        return self._ask(lambda: self._store.add(_FAILED, 1)) == 1

    def _somebody_failed(self) -> bool:
        return self._ask(lambda: self._store.add(_FAILED, 0)) > 0

    def _killed(self) -> Exception:
        if self._somebody_failed():
            return distributed.PeerFailed()
        return InvalidInput(
            "another process of this evaluation was killed; start it again, with --resume where rows were kept"
        )

    @staticmethod
    def _all_at_end() -> dist.Work:
        return dist.all_reduce(torch.zeros(1), async_op=True)

    @staticmethod
    def _ask(question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except RuntimeError as error:  # the first process, which keeps the table, is gone
            raise distributed.PeerFailed from error


def _store(host: str, port: int, size: int, *, is_first: bool) -> TCPStore:
    return TCPStore(host, port, size, is_master=is_first, timeout=_PATIENCE, wait_for_workers=False)
