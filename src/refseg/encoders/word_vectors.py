"""Word vectors: a published file, read once into a table that is mapped into memory; phrases to matrices of vectors.

A table lies in the cache folder under its name. A checkpoint may carry the vectors of the tokens it was trained on, so
that prediction needs no table.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from refseg.encoders.tokenizers.english import tokens_of, words_of
from refseg.encoders.vector_files import read_entries
from refseg.errors import InvalidInput
from refseg.files import whole_folder
from refseg.structures import TextTokens

LETTERS = "letters"  # the table that needs no file: a vector drawn from a token's letters; for tests
MOST_CARRIED = 40_000  # tokens; the header of a checkpoint file is bounded
_ADDRESS = "https://nlp.stanford.edu/data/glove.840B.300d.zip"


@dataclass(frozen=True)
class WordTable:
    """Vectors by exact string, mapped into memory: nothing but the rows asked for is read."""

    name: str
    vectors: np.ndarray  # [N, E] float32, in the order of the file
    keys: np.ndarray  # [N] uint64, sorted digests of the words
    rows: np.ndarray  # [N] int64, the row of each key

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The table that `write_table` put into `folder`.

        Raises:
            InvalidInput: if it is damaged.
        """
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            shape = (int(about["words"]), int(about["dim"]))
            vectors = np.memmap(folder / "vectors.f32", dtype=np.float32, mode="r", shape=shape)
            keys, rows = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("keys", "rows"))
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(
                f"the table of word vectors in {folder} is damaged ({error}); delete the folder and read the file again"
            ) from error
        return cls(folder.name, vectors, keys, rows)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors.shape[1])

    def find(self, token: str) -> np.ndarray | None:
        """The vector of a token, or None where the table has none."""
        key = _key(token)
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return None
        return np.array(self.vectors[self.rows[place]])


def write_table(source: Path, *, name: str | None = None) -> Path:
    """Reads a published file of word vectors into the table `name` (the file's own name, by default); its folder.

    Raises:
        InvalidInput: if the file cannot be read, holds no word, or the cache cannot be written.
    """
    called = name or table_name(source)
    folder = table_folder(called)
    try:
        with whole_folder(folder) as part:
            keys, dim = _write_vectors(read_entries(source), part / "vectors.f32")
            if not len(keys):
                raise InvalidInput(f"{source} holds no word vector")
            unique, rows = np.unique(keys, return_index=True)  # of equal words the first counts
            np.save(part / "keys.npy", unique)
            np.save(part / "rows.npy", rows.astype(np.int64))
            about = {"words": len(keys), "dim": dim, "source": source.name}
            (part / "about.json").write_text(json.dumps(about), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"the table of word vectors cannot be written to {folder}: {error}") from error
    return folder


def table_name(source: Path) -> str:
    """What the table of a file is called: `glove.840B.300d` for glove.840B.300d.txt, .zip, .txt.gz."""
    return re.sub(r"(\.(txt|vec|zip|gz|npz))+$", "", source.resolve().name, flags=re.IGNORECASE)


def table_folder(name: str) -> Path:
    """Where the table of a name lies: `vectors/NAME` under REFSEG_HOME, else under refseg in the user's cache folder."""
    home = os.environ.get("REFSEG_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refseg"
    return (Path(home).expanduser() if home else cache) / "vectors" / name


def _write_vectors(entries: Iterator[tuple[str, np.ndarray]], path: Path) -> tuple[np.ndarray, int]:
    keys: list[int] = []
    dim = 0
    with path.open("wb") as file:
        for word, vector in entries:
            dim = dim or len(vector)
            if len(vector) != dim:
                raise InvalidInput(
                    f"the vector of {word!r} has {len(vector)} numbers, and those before it {dim}"
                )
            keys.append(int(_key(word)))
            file.write(vector.astype("<f4").tobytes())
    return np.array(keys, dtype=np.uint64), dim


def _key(word: str) -> np.uint64:
    """64 bits of a digest: two of two million words are equal in one table of ten million."""
    return np.uint64(int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little"))


class PhraseVectors:
    """Phrases to matrices of word vectors: one row per word, the mean of its tokens' vectors, zeros after the last.

    Published behaviour: a token without a vector counts as zeros in the mean; words beyond `max_words` are left out.
    """

    def __init__(self, table: str, *, dim: int, max_words: int) -> None:
        self.table, self.dim, self.max_words = table, dim, max_words
        self._known: dict[str, np.ndarray] = {}  # carried, or looked up before
        self._opened: WordTable | None = None

    def __deepcopy__(self, memo: object) -> PhraseVectors:
        return self  # a copy of a model asks the same table, and carries what either has read

    def __call__(self, phrases: Sequence[str]) -> TextTokens:
        """Vectors [P, max_words, E] float32 and which rows are words, on the CPU.

        Raises:
            InvalidInput: if a phrase is empty, or vectors are needed that neither the checkpoint nor this machine has.
        """
        if not phrases:
            raise InvalidInput("no phrase was given; give at least one")
        values = np.zeros((len(phrases), self.max_words, self.dim), dtype=np.float32)
        valid = torch.zeros(len(phrases), self.max_words, dtype=torch.bool)
        for row, phrase in enumerate(phrases):
            words = words_of(phrase)[: self.max_words]
            if not words:
                raise InvalidInput("a phrase is empty; say in words what to segment")
            values[row, : len(words)] = [self._word(word) for word in words]
            valid[row, : len(words)] = True
        return TextTokens(torch.from_numpy(values), valid)

    def _word(self, word: str) -> np.ndarray:
        vectors = [self._token(token) for token in tokens_of(word)]
        return vectors[0] if len(vectors) == 1 else np.stack(vectors).mean(axis=0)

    def _token(self, token: str) -> np.ndarray:
        if token not in self._known:
            self._known[token] = self._look_up(token)
        return self._known[token]

    def _look_up(self, token: str) -> np.ndarray:
        if self.table == LETTERS:
            drawn = np.random.RandomState(zlib.crc32(token.encode("utf-8")))
            return drawn.standard_normal(self.dim).astype(np.float32)
        if self._opened is None:
            self._opened = self._open(token)
        found = self._opened.find(token)
        return np.zeros(self.dim, dtype=np.float32) if found is None else found

    def _open(self, token: str) -> WordTable:
        folder = table_folder(self.table)
        if not folder.is_dir():
            carried = f"carries {len(self._known)} of them" if self._known else "carries none"
            raise InvalidInput(
                f"the word vectors {self.table!r} are not on this machine, and the checkpoint {carried}, without "
                f"{token!r}; download {_ADDRESS} (2 GB) and run once: refseg vectors glove.840B.300d.zip"
            )
        opened = WordTable.open(folder)
        if opened.dim != self.dim:
            raise InvalidInput(
                f"the word vectors in {folder} have {opened.dim} numbers each, and the model reads {self.dim}; read the "
                "file it was trained with"
            )
        return opened

    # What a checkpoint carries

    def carry(self, texts: Iterable[str]) -> None:
        """Looks up every token of some texts, so that a checkpoint saved from now on carries their vectors.

        Raises:
            InvalidInput: if the table is needed and is not on this machine.
        """
        for text in texts:
            for word in words_of(text):
                for token in tokens_of(word):
                    self._token(token)

    def to_text(self) -> str:
        """All that is carried, as text for a checkpoint's header.

        Raises:
            InvalidInput: if it is more than a header can hold.
        """
        if len(self._known) > MOST_CARRIED:
            raise InvalidInput(
                f"{len(self._known)} tokens are more than the {MOST_CARRIED} whose vectors a checkpoint can carry"
            )
        tokens = sorted(self._known)
        vectors = np.stack([self._known[token] for token in tokens]) if tokens else np.zeros((0, self.dim))
        packed = base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii")
        return json.dumps({"table": self.table, "dim": self.dim, "tokens": tokens, "vectors": packed})

    def take(self, text: str) -> None:
        """Takes back what `to_text` gave.

        Raises:
            InvalidInput: if it is something else, or of another table or dimension.
        """
        told = _parse(text)
        if (told["table"], told["dim"]) != (self.table, self.dim):
            raise InvalidInput(
                f"the checkpoint carries vectors of {told['table']} with {told['dim']} numbers, and the model reads "
                f"{self.table} with {self.dim}"
            )
        vectors = np.frombuffer(base64.b64decode(str(told["vectors"])), dtype="<f4").reshape(-1, self.dim)
        self._known |= zip(told["tokens"], vectors.astype(np.float32), strict=True)


def _parse(text: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(text)
        told["table"], told["dim"], told["tokens"], told["vectors"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the word vectors that the checkpoint carries are damaged ({error})") from error
    return told
