"""Pickles of plain data: lists, dicts, texts and numbers come out; a file that holds anything else is refused unread.

The refs files of REFER are pickles that Python 2 wrote. A pickle is a program, and `find_class` alone is no wall: a file of
a few bytes may also ask for gigabytes. So every instruction is looked at first, without following any; only a
file made of the few that build plain data is then loaded, by an unpickler that can name no class.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from refseg.errors import InvalidInput

_MOST_DIGITS = 40  # of one number; ids and counts have fewer than 20
_MOST_LINE = 1 << 20  # characters of one text in a pickle of protocol 0

# Instructions by the number of bytes that follow each. Names are those of Python's pickletools.
_FIXED = {
    **dict.fromkeys(
        b"(}]adesulN", 0
    ),  # MARK, EMPTY_DICT, EMPTY_LIST, APPEND, DICT, APPENDS, SETITEM(S), LIST, NONE
    **dict.fromkeys(b"\x88\x89\x94", 0),  # NEWTRUE, NEWFALSE, MEMOIZE
    ord("K"): 1,  # BININT1
    ord("h"): 1,  # BINGET
    ord("q"): 1,  # BINPUT
    ord("M"): 2,  # BININT2
    ord("J"): 4,  # BININT
    ord("j"): 4,  # LONG_BINGET
    ord("G"): 8,  # BINFLOAT
    0x95: 8,  # FRAME
    0x80: 1,  # PROTO
}
# Texts and numbers with their length in front: how many bytes the length has.
_COUNTED = {
    ord("U"): 1,
    ord("T"): 4,
    ord("X"): 4,
    0x8C: 1,
    0x8D: 8,
    ord("C"): 1,
    ord("B"): 4,
    0x8E: 8,
    0x8A: 1,
}
_LINES = b"SVILFgp"  # instructions of protocol 0, which end with their line
_NAMES = {
    ord("c"): "names a class or function",
    0x93: "names a class or function",
    ord("R"): "calls a function",
    ord("i"): "builds an object",
    ord("o"): "builds an object",
    0x81: "builds an object",
    0x92: "builds an object",
    ord("b"): "sets the state of an object",
    ord("P"): "asks for an object from outside",
    ord("Q"): "asks for an object from outside",
    0x82: "names a registered class",
    0x83: "names a registered class",
    0x84: "names a registered class",
}


def load_plain_pickle(path: Path) -> Any:
    """The lists, dicts, texts and numbers in a pickle of any protocol; byte strings of Python 2 become text.

    Byte strings are read as UTF-8, and as latin-1 where they are none.

    Raises:
        InvalidInput: if the file cannot be read, is no pickle, is cut off, or holds anything but plain data.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    check_plain(data, path)
    for encoding in ("utf-8", "latin-1"):
        try:
            return _Plain(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except (
            pickle.UnpicklingError,
            ValueError,
            EOFError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            _damaged(path, str(error))
        except (RecursionError, MemoryError, OverflowError) as error:
            _damaged(path, type(error).__name__)
    _damaged(path, "a text in it is in no known encoding")


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, _identity: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for an object from outside")


def check_plain(data: bytes, path: Path) -> None:
    """Raises InvalidInput unless every instruction of a pickle builds plain data and stays within the file."""
    steps: list[int] = [0] * 256  # bytes of a whole instruction; 0: to be looked at closer
    for op, following in _FIXED.items():
        steps[op] = following + 1
    end, place = len(data), 0
    while place < end:
        op = data[place]
        step = steps[op]
        if step:
            place += step
        elif op == ord("."):
            return
        else:
            place = _look(data, place, path)
    _damaged(path, "it has no end")


def _look(data: bytes, place: int, path: Path) -> int:
    """The place after one instruction that is not of fixed length."""
    op = data[place]
    if op in _COUNTED:
        return _after_counted(data, place, path)
    if op in _LINES:
        return _after_line(data, place, path)
    if op == ord("r"):  # LONG_BINPUT: memory for every place up to the one named is taken at once
        _check_place(int.from_bytes(data[place + 1 : place + 5], "little"), len(data), path)
        return place + 5
    if op in _NAMES:
        raise InvalidInput(
            f"{path} is a pickle that {_NAMES[op]} (byte {place}); annotations are lists, dicts, texts and numbers alone. "
            "Nothing was run: do not use this file, get it from its publisher"
        )
    _damaged(path, f"byte {place} is {op:#04x}, which plain data does not hold")


def _after_counted(data: bytes, place: int, path: Path) -> int:
    width = _COUNTED[data[place]]
    length = int.from_bytes(data[place + 1 : place + 1 + width], "little")
    if data[place] == 0x8A and length > 16:
        _damaged(path, f"a number at byte {place} has {length} bytes")
    after = place + 1 + width + length
    if after > len(data):
        _damaged(path, f"a text at byte {place} is longer than the file")
    return after


def _after_line(data: bytes, place: int, path: Path) -> int:
    last = data.find(b"\n", place + 1, place + _MOST_LINE)
    if last < 0:
        _damaged(path, f"the line at byte {place} has no end")
    if data[place] in b"ILgpF":
        text = data[place + 1 : last]
        if len(text) > _MOST_DIGITS:
            _damaged(path, f"a number at byte {place} has {len(text)} digits")
        if data[place] == ord("p"):
            _check_place(int(text) if text.isdigit() else -1, len(data), path)
    return last + 1


def _check_place(number: int, most: int, path: Path) -> None:
    if not 0 <= number <= most:
        _damaged(path, "it refers to more values than it has bytes")


def _damaged(path: Path, why: str) -> NoReturn:
    raise InvalidInput(f"{path} is no pickle of annotations, or is damaged ({why}); get a whole copy of it")
