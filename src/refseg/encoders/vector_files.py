"""Published files of word vectors, entry by entry: GloVe and word2vec text, zip and gzip of it, npz, a spaCy package.

Entries are compared by exact string; nothing is lower-cased or normalised.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from refseg.errors import InvalidInput

Entry = tuple[str, np.ndarray]
"""A word and its vector [E] float32."""

_KNOWN = "known are GloVe or word2vec text (.txt, .vec; also as .gz or .zip), .npz with words and vectors, and a spaCy folder"
_MASK = (1 << 64) - 1


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file of word vectors, in its order.

    Raises:
        InvalidInput: if the file is absent, damaged, or of another kind.
    """
    if path.is_dir():
        return _spacy(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file of word vectors {path}")
    if path.suffix.lower() == ".npz":
        return _npz(path)
    return _text(path)


def _text(path: Path) -> Iterator[Entry]:
    with _open(path) as lines:
        first = lines.readline()
        dim = _dim_of(path, first)
        number = 1
        if dim:
            yield _entry(path, first, dim, number)
        else:
            dim = int(first.split()[1])  # word2vec begins with a count and a dimension
        for line in lines:
            number += 1
            if line.strip():
                yield _entry(path, line, dim, number)


def _entry(path: Path, line: str, dim: int, number: int) -> Entry:
    # Cut from the right: a few words of GloVe hold spaces.
    parts = line.rstrip().rsplit(" ", dim)
    try:
        vector = np.array(parts[1:], dtype=np.float32)
    except ValueError:
        vector = np.empty(0, dtype=np.float32)
    if len(vector) != dim:
        raise InvalidInput(
            f"{path} line {number} holds no word and {dim} numbers as the lines before it; the file is damaged: get it again"
        )
    return parts[0], vector


def _dim_of(path: Path, line: str) -> int:
    """How many numbers follow the word of the first line; 0 where it is the header of a word2vec file."""
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return 0
    count = 0
    for part in reversed(parts[1:]):
        try:
            float(part)
        except ValueError:
            break
        count += 1
    if count < 2:
        raise InvalidInput(f"{path} holds no word vectors; {_KNOWN}")
    return count


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    """The text of a file, unpacked on the way."""
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
                yield lines
        elif head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive, archive.open(_only_text(path, archive)) as raw:
                yield io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        else:
            with path.open(encoding="utf-8", newline="\n") as lines:
                yield lines
    except (OSError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read as word vectors ({error}); get it again, or give another kind: {_KNOWN}"
        ) from error


def _only_text(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if name.lower().endswith((".txt", ".vec"))]
    if len(names) != 1:
        raise InvalidInput(
            f"{path} holds {len(names)} text files, and one of word vectors was expected; unpack it and give the one you mean"
        )
    return names[0]


def _npz(path: Path) -> Iterator[Entry]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = arrays["words"], arrays["vectors"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path} is no npz file with the arrays 'words' (texts) and 'vectors' [words, numbers]: {error}"
        ) from error
    if vectors.ndim != 2 or words.shape != vectors.shape[:1] or words.dtype.kind != "U":
        raise InvalidInput(
            f"{path} holds words {words.shape} ({words.dtype}) and vectors {vectors.shape}; one text per row was expected"
        )
    yield from zip(words.tolist(), vectors.astype(np.float32), strict=True)


def _spacy(folder: Path) -> Iterator[Entry]:
    """The `vocab` of a spaCy 2 package: vectors, a map from hashes of words to rows, and the words."""
    found = sorted(folder.glob("**/vocab/vectors"))
    vocab = found[0].parent if found else folder
    try:
        vectors = np.load(vocab / "vectors", mmap_mode="r", allow_pickle=False)
        rows = _unpacked_map((vocab / "key2row").read_bytes())
        words = json.loads((vocab / "strings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"{folder} is no unpacked spaCy package with word vectors (vocab/vectors, vocab/key2row, vocab/strings.json): {error}"
        ) from error
    for word in words:
        row = rows.get(spacy_hash(word))
        if row is not None and row >= 0:
            yield word, np.asarray(vectors[row], dtype=np.float32)


def spacy_hash(word: str) -> int:
    """The 64-bit number by which spaCy knows a word: MurmurHash64A of its UTF-8 bytes, seed 1."""
    factor, data = 0xC6A4A7935BD1E995, word.encode("utf-8")
    mixed = 1 ^ (len(data) * factor & _MASK)
    whole = len(data) // 8 * 8
    for start in range(0, whole, 8):
        block = int.from_bytes(data[start : start + 8], "little") * factor & _MASK
        block = (block ^ (block >> 47)) * factor & _MASK
        mixed = (mixed ^ block) * factor & _MASK
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * factor & _MASK
    mixed = (mixed ^ (mixed >> 47)) * factor & _MASK
    return mixed ^ (mixed >> 47)


_INTEGERS = {0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False)} | {
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
_LENGTHS = {0xDE: 2, 0xDF: 4, 0xDC: 2, 0xDD: 4}


def _unpacked_map(data: bytes) -> dict[int, int]:
    """A msgpack map of whole numbers, or an array of pairs of them, as spaCy writes `key2row`."""
    kind = data[0]
    if kind & 0xF0 in (0x80, 0x90):
        count, place = kind & 0x0F, 1
    elif kind in _LENGTHS:
        place = 1 + _LENGTHS[kind]
        count = int.from_bytes(data[1:place], "big")
    else:
        raise ValueError(f"key2row begins with the byte {kind:#x}, and a map was expected")
    is_array = kind & 0xF0 == 0x90 or kind in (0xDC, 0xDD)
    found = {}
    for _ in range(count):
        place += is_array  # the byte that announces a pair
        key, place = _unpacked_integer(data, place)
        found[key], place = _unpacked_integer(data, place)
    return found


def _unpacked_integer(data: bytes, place: int) -> tuple[int, int]:
    kind: Any = data[place]
    if kind in _INTEGERS:
        size, is_signed = _INTEGERS[kind]
        return int.from_bytes(data[place + 1 : place + 1 + size], "big", signed=is_signed), place + 1 + size
    if kind < 0x80 or kind >= 0xE0:
        return kind if kind < 0x80 else kind - 256, place + 1
    raise ValueError(f"key2row holds the byte {kind:#x} where a whole number was expected")
