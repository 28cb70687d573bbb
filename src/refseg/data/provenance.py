"""Which data a result rests on: hashes of what was read or drawn, so that another person can tell whether theirs is it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from refseg.structures import Example


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_examples(examples: Iterable[Example]) -> str:
    """SHA-256 over phrases, frames and masks of examples: another world, or another way of drawing it, gives another one."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update("\n".join(example.phrases).encode())
        for tensor in (example.frames, example.masks):
            if tensor is not None:
                digest.update(repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
