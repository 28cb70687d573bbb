"""Data sets by name or by path, behind one small door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from refseg.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from refseg.data.annotated import ReadOptions
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
    options: ReadOptions | None = None,
) -> PhraseDataset:
    """The data set called `name_or_path`, or the one that stands there.

    Args:
        name_or_path: "scenes"; a published data set ("refcoco", "mevis", ...: `data.published`); a folder that holds one;
            a `.jsonl` file in the open form; or a folder that holds one (`<split>.jsonl`, or the only one there is).
        split: the part to read; None is "val" for scenes and pictures, the part with masks that is kept for measuring for
            videos ("valid", "valid_u", "test"), and every line of a file.
        count: at most so many examples; None is all of them.
        root: of a published data set the folder that holds its folder, None is `data` or here; of a phrase file the
            folder that its paths start from, None is its own.
        scenes: further fields of `ScenesSpec`; for scenes only.
        options: how a published data set is read: which text, which masks, what an example holds.

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
    published = _published(str(name_or_path), split, count, root, options)
    if published is not None:
        return published
    from refseg.data.phrases import PhraseFile

    return PhraseFile(find_phrase_file(name_or_path, split), split=split, count=count, root=root)


def _published(
    name: str, split: str | None, count: int | None, root: Path | None, options: ReadOptions | None
) -> PhraseDataset | None:
    """The published data set of a name or a folder; None if it is neither."""
    from refseg.data.published import ALIASES, PUBLISHED

    is_name, folder = name.lower() in PUBLISHED or name.lower() in ALIASES, Path(name)
    if not is_name and (not folder.is_dir() or any(folder.glob("*.jsonl"))):
        if options is not None and not folder.exists():
            raise UnknownName("data set", name, [*DEFAULT_SPLITS, *PUBLISHED])
        if options is not None:
            raise InvalidInput(f"options of reading belong to published data sets; {name} takes none of them")
        return None
    from refseg.data.annotated import ReadOptions as Options
    from refseg.data.published_sets import open_folder, open_published

    options = options or Options()
    if is_name:
        return open_published(name, split=split, root=root, count=count, options=options)
    return open_folder(folder, split=split, count=count, options=options)


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
    told = {"name": dataset.name, "split": getattr(dataset, "split", None), "count": len(dataset)}
    options = getattr(dataset, "options", None)
    if options is None:
        return told
    read = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    left_out = {"left_out": dataset.num_left_out} if getattr(dataset, "num_left_out", 0) else {}  # type: ignore[attr-defined]
    return told | {"options": read, "sources": _sources(dataset)} | left_out


def _sources(dataset: Any) -> dict[str, str]:
    """Names and SHA-256 of the annotation files, where an index knows them."""
    holder = getattr(dataset, "table", None) or getattr(dataset, "series", None)
    return {} if holder is None else {s["name"]: s["sha256"] for s in holder.columns.facts["sources"]}


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
        from refseg.data.published import PUBLISHED

        raise UnknownName("data set", str(path), [*DEFAULT_SPLITS, *PUBLISHED])
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
        else f"the folder {folder} holds no .jsonl file, and no published data set in a layout that is known; `refseg data "
        "list NAME` tells the layouts, and a folder that holds several sets goes to --root"
    )


def _scenes(split: str | None, count: int | None, fields: Mapping[str, Any]) -> PhraseDataset:
    from refseg.data.scenes.dataset import Scenes, ScenesSpec

    return Scenes(ScenesSpec.of({"split": split or DEFAULT_SPLITS["scenes"], "count": count, **fields}))
