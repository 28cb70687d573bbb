"""What was counted of each phrase, and the file that keeps it while an evaluation runs.

The file has a header and one JSON line for every example, written when the example is done. An evaluation that was stopped
reads it and goes on after the last whole line; another checkpoint, data set or protocol is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from refseg.errors import InvalidInput
from refseg.files import check_writable

FORM = "refseg evaluation 1"


@dataclass(slots=True)
class PhraseRecord:
    """One phrase: whole numbers of pixels, so that every convention can be computed later."""

    number: int  # of the phrase in its example
    phrase: str
    register: str
    score: float | None
    views: dict[str, list[list[int]]] = field(
        default_factory=dict
    )  # view: intersection, answer, target; [T'] each
    contour: list[float] = field(default_factory=list)  # boundary F of each frame, where it was taken
    ranked: dict[str, Any] | None = None  # all candidates: see `ranking.ranked_record`
    centre: list[float] | None = None  # of the target where it is first seen: x, y as shares of the frame
    id: str | None = None  # as the data set numbers the phrase
    says_nothing: bool | None = None  # the data set states that nothing answers to the phrase

    def pixels(self, view: str = "source") -> tuple[int, int, int]:
        """Intersection, answer and target, all frames together."""
        intersection, answer, target = (sum(column) for column in self.views[view])
        return intersection, answer, target


@dataclass(slots=True)
class ExampleRecord:
    """What one example gave."""

    index: int
    name: str
    frames: int
    size: list[int]  # [height, width]
    rows: list[PhraseRecord] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)  # one entry a run: see `objects.Merged`
    reading_seconds: float = 0.0
    predicting_seconds: float = 0.0


class Journal:
    """The file of an evaluation under way; as a context it is closed at the end."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, resumes: bool = False) -> None:
        """
        Raises:
            InvalidInput: if the file exists and is not resumed, belongs to another evaluation, or cannot be written.
        """
        self.path = path
        self.done: dict[int, ExampleRecord] = {}
        self._head = json.dumps({"form": FORM, **header}, sort_keys=True)
        self._file: IO[str] | None = (
            None  # opened with the first example, so that a refusal before it leaves nothing
        )
        if path.exists() and not resumes:
            raise InvalidInput(f"{path} exists; --resume goes on with it, or give another name")
        check_writable(path.parent)
        self._whole = _read_whole_lines(path) if path.exists() else []
        if self._whole:
            self._take(self._whole, self._head)
        elif path.exists() and not _is_torn(path, self._head):
            raise InvalidInput(f"{path} belongs to another evaluation (it has no header); give another name")

    def _take(self, lines: list[str], head: str) -> None:
        if lines[0] != head:
            raise InvalidInput(
                f"{self.path} belongs to another evaluation ({_difference(lines[0], head)}); give another name"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                done = from_line(line)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InvalidInput(
                    f"{self.path} line {number} is damaged; delete the file and start anew"
                ) from error
            self.done[done.index] = done

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("r+" if self.path.exists() else "w", encoding="utf-8", newline="\n")
        file.seek(sum(len(line.encode()) + 1 for line in self._whole))
        file.truncate()  # what a killed run left of its last line
        if not self._whole:
            file.write(self._head + "\n")
        return file

    def add(self, done: ExampleRecord) -> None:
        """Keeps an example; it is on disk when this returns.

        Raises:
            InvalidInput: if the file cannot be written.
        """
        self.done[done.index] = done
        try:
            self._file = self._file or self._open()
            self._file.write(as_line(done) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_rows(path: Path) -> tuple[dict[str, Any], list[ExampleRecord]]:
    """Header and examples of a finished or stopped evaluation.

    Raises:
        InvalidInput: if it is no such file.
    """
    lines = _read_whole_lines(path)
    try:
        header = json.loads(lines[0])
        if header.pop("form") != FORM:
            raise ValueError("another form")
        return header, [from_line(line) for line in lines[1:]]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not a file of rows; `refseg evaluate ... --rows FILE` writes one"
        ) from error


def _is_torn(path: Path, head: str) -> bool:
    """Whether a file without a whole line is what a kill left of this very header."""
    try:
        with path.open("rb") as file:
            start = file.read(len(head) + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    return len(start) <= len(head) and head.encode().startswith(start)


def _read_whole_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    return text[: text.rfind("\n") + 1].splitlines()


def as_line(done: ExampleRecord) -> str:
    """An example as one line of JSON."""
    return json.dumps(asdict(done))


def from_line(line: str) -> ExampleRecord:
    """The example that `as_line` wrote."""
    record = json.loads(line)
    rows = [PhraseRecord(**row) for row in record.pop("rows")]
    return ExampleRecord(rows=rows, **record)


def _difference(ours: str, theirs: str) -> str:
    """The first field in which two headers differ."""
    try:
        a, b = json.loads(ours), json.loads(theirs)
        keys: Iterable[str] = sorted({*a, *b})
        return next(
            f"{key}: {a.get(key)} there, {b.get(key)} now" for key in keys if a.get(key) != b.get(key)
        )
    except (ValueError, AttributeError, TypeError, StopIteration):
        return "its first line is no header"
