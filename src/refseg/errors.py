"""The mistakes a user can make, each told in one sentence: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RefsegError(ValueError):
    """A mistake that the caller can mend; the command line prints it as one sentence and exits with code 2."""


class InvalidInput(RefsegError):
    """A value, file or option that cannot be used as given."""


class UnknownName(RefsegError):
    """A name that nothing carries; the message suggests the nearest known ones."""

    def __init__(self, kind: str, given: str, known: Iterable[str]) -> None:
        self.given = given
        names = sorted(known)
        near = nearest(given, names)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known: {', '.join(names) or 'none'}."
        )
        super().__init__(f"there is no {kind} named {given!r}; {hint}")


class CheckpointMismatch(RefsegError):
    """Weights that do not fit the model: the names left on either side, or a shape that differs."""

    def __init__(self, summary: str, *, missing: Sequence[str] = (), unexpected: Sequence[str] = ()) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        parts = [summary]
        if missing:
            parts.append(f"the model needs, and the file lacks, {_listed(missing)}")
        if unexpected:
            parts.append(f"the file has, and the model lacks, {_listed(unexpected)}")
        super().__init__("; ".join(parts) + ".")


def is_full_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of a GPU."""
    # Torch tells of a full GPU by a class of its own, known here by name so that torch is not loaded, and of full main
    # memory by words.
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torch


def nearest(given: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like `given`, best first; empty when nothing is near."""
    return difflib.get_close_matches(given, list(known), n=count, cutoff=0.5)


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{len(names)} names: {shown}" + (", ..." if len(names) > most else "")
