"""Values of annotation files, taken one by one; what is wrong is told with file, record and field."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from refseg.errors import InvalidInput

OnProblem = Callable[[InvalidInput], None]
"""What hears of a record that cannot be used, and lets the reading go on; without one, the first ends it."""

_MOST_WHOLE = 2**53


def raise_problem(error: InvalidInput) -> NoReturn:
    """Ends the reading at the first problem."""
    raise error


@dataclass(slots=True)
class LeftOut:
    """Records that could not be used and were left out."""

    reasons: list[str] = field(default_factory=list)

    def note(self, error: InvalidInput) -> None:
        """One more."""
        self.reasons.append(str(error))


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping of a file, and the words that tell where it stands ("refs(unc).p record 7")."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Record:
        """`value`, which must be a mapping with text keys."""
        if not isinstance(value, dict):
            raise InvalidInput(f"{where} is {kind_of(value)}, and must be an object with named fields")
        return cls(value, where)

    def wrong(self, field: str, expected: str) -> InvalidInput:
        """The refusal of a field."""
        if field not in self.values:
            return InvalidInput(f'{self.where}: the field "{field}" is missing; it must be {expected}')
        return InvalidInput(
            f'{self.where}: the field "{field}" is {kind_of(self.values[field])}, and must be {expected}'
        )

    def whole(self, field: str, *, least: int = -_MOST_WHOLE) -> int:
        """A whole number, also where it is written as a float."""
        value = self.values.get(field)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_WHOLE:
            expected = "a whole number" if least < 0 else f"a whole number from {least} on"
            raise self.wrong(field, expected)
        return value

    def text(self, field: str) -> str:
        """A text; byte strings that no pickle turned into text are read as UTF-8 or latin-1."""
        value = self.values.get(field)
        if isinstance(value, bytes):
            return decode_text(value)
        if not isinstance(value, str):
            raise self.wrong(field, "a text")
        return value

    def items(self, field: str) -> Sequence[Any]:
        """A list."""
        value = self.values.get(field)
        if not isinstance(value, list):
            raise self.wrong(field, "a list")
        return value

    def mapping(self, field: str) -> Record:
        """A mapping."""
        value = self.values.get(field)
        if not isinstance(value, dict):
            raise self.wrong(field, "an object")
        return Record(value, f"{self.where}: {field}")

    def number(self, field: str) -> float:
        """A finite number."""
        value = self.values.get(field)
        if not is_number(value):
            raise self.wrong(field, "a number")
        return float(value)  # type: ignore[arg-type]

    def numbers(self, field: str, count: int) -> list[float]:
        """A list of `count` finite numbers."""
        value = self.values.get(field)
        if not isinstance(value, list) or len(value) != count or not all(is_number(v) for v in value):
            raise self.wrong(field, f"a list of {count} numbers")
        return [float(v) for v in value]


def decode_text(value: bytes) -> str:
    """Text of bytes: UTF-8, or latin-1 where it is none."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def text_lines(text: str) -> list[str]:
    """The lines of a text file: ended by \\n, \\r or both, and by nothing else.

    `str.splitlines` also ends a line at characters that stand inside phrases, such as 0x85 of a latin-1 file.
    """
    return io.StringIO(text, newline=None).read().split("\n")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | bytes):
        return f"the text {value[:40]!r}" if value else "an empty text"
    if isinstance(value, int | float):
        return f"the number {value:g}" if abs(value) < 1e300 else "an enormous number"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        InvalidInput: if it cannot be read, or is no JSON.
    """
    from pydantic_core import from_json  # three times as fast as the standard library

    try:
        return from_json(path.read_bytes(), cache_strings="keys")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is no JSON, or is cut off ({error}); get a whole copy of it") from error


def read_json_object(path: Path) -> Record:
    """The object in a JSON file."""
    return Record.of(read_json(path), path.name)


def dumps(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
