"""Data sets by name or by path, behind one small door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from refseg.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from refseg.structures import Example

DEFAULT_SPLITS = {"scenes": "val"}
"""Data sets that are known by name, and what is read of them where no split is named; everything else is a path."""


class PhraseDataset(Protocol):
    """Annotated clips, one at a time; every data set is one of these."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of its phrases, sorted, lower-case."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example of an index; it depends on the index alone."""


def open_dataset(
    name_or_path: str | Path,
    *,
    split: str | None = None,
    count: int | None = None,
    root: Path | None = None,
    scenes: Mapping[str, Any] | None = None,
) -> PhraseDataset:
    """The data set called `name_or_path`, or the phrase file that stands there.

    Args:
        name_or_path: "scenes"; a `.jsonl` file in the open form; or a folder that holds one (`<split>.jsonl`, or the
            only one there is).
        split: the part to read; None is "val" for scenes, and every line of a file.
        count: at most so many examples; None is all of them.
        root: the folder that the paths of a phrase file start from; None is the file's own folder.
        scenes: further fields of `ScenesSpec`; for scenes only.

    Raises:
        UnknownName: if nothing is called so.
        InvalidInput: if the file cannot be used, or an option does not belong to this data set.
    """
    if count is not None and count < 1:
        raise InvalidInput(f"{count} examples were asked for; give a count of 1 or more, or none for all")
    if name_or_path == "scenes":
        if root is not None:
            raise InvalidInput("scenes are drawn, not read; a root belongs to a phrase file")
        return _scenes(split, count, scenes or {})
    if scenes:
        raise InvalidInput(
            f"{', '.join(scenes)} belong to scenes; the data set {name_or_path} takes none of them"
        )
    from refseg.data.phrases import PhraseFile

    return PhraseFile(find_phrase_file(name_or_path, split), split=split, count=count, root=root)


def describe(dataset: PhraseDataset) -> dict[str, Any]:
    """What is needed to read the very same examples again, as plain data."""
    from refseg.data.phrases import PhraseFile
    from refseg.data.scenes.dataset import Scenes
    from refseg.data.scenes.sprites import sprites_hash

    if isinstance(dataset, Scenes):
        spec = asdict(dataset.spec) | {"count": len(dataset), "registers": dict(dataset.spec.shares())}
        return {"name": "scenes", **spec, "sprites_hash": sprites_hash(dataset.spec.sprites)}
    if isinstance(dataset, PhraseFile):
        return {
            "name": dataset.name,
            "split": dataset.split,
            "count": len(dataset),
            "sha256": dataset.sha256(),
        }
    return {"name": dataset.name, "count": len(dataset)}


def find_phrase_file(path: str | Path, split: str | None = None) -> Path:
    """The phrase file at `path`, or in the folder at `path`.

    Raises:
        UnknownName: if nothing stands there.
        InvalidInput: if it is no `.jsonl` file, or a folder with none or with several to choose from.
    """
    found = Path(path)
    if found.is_dir():
        return _file_in(found, split)
    if not found.exists():
        if found.suffix or len(found.parts) > 1:
            raise InvalidInput(f"there is no phrase file {found}")
        raise UnknownName("data set", str(path), DEFAULT_SPLITS)
    if found.suffix != ".jsonl":
        raise InvalidInput(
            f"{found} is no .jsonl file; the open form is one JSON line per phrase in a .jsonl file"
        )
    return found


def _file_in(folder: Path, split: str | None) -> Path:
    if split is not None and (folder / f"{split}.jsonl").is_file():
        return folder / f"{split}.jsonl"
    files = sorted(folder.glob("*.jsonl"))
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files[:8])
    raise InvalidInput(
        f"the folder {folder} holds {names}; name the one to read"
        if files
        else f"the folder {folder} holds no .jsonl file"
    )


def _scenes(split: str | None, count: int | None, fields: Mapping[str, Any]) -> PhraseDataset:
    from refseg.data.scenes.dataset import Scenes, ScenesSpec

    return Scenes(ScenesSpec(split=split or DEFAULT_SPLITS["scenes"], count=count, **fields))  # type: ignore[arg-type]
