"""Data sets by name or by path, behind one small door."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from refseg.structures import Example


class PhraseDataset(Protocol):
    """Annotated clips, one at a time; every data set is one of these."""

    name: str
    vocabulary: tuple[str, ...]  # the words of its phrases, sorted, lower-case

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_dataset(
    name_or_path: str | Path, *, split: str | None = None, count: int | None = None, root: Path | None = None
) -> PhraseDataset:
    """The data set called `name_or_path`, or the phrase file that stands there.

    Args:
        name_or_path: "scenes", a `.jsonl` file in the open form, or a folder that holds one.
        split: the part to read; None is the data set's own default ("val" for scenes, every line of a file).
        count: at most so many examples; None is all of them (for scenes: of the split).
        root: the folder that the paths of a phrase file start from; None is the file's own folder.

    Raises:
        UnknownName: if nothing is called so.
        InvalidInput: if the file cannot be used.
    """
    raise NotImplementedError
