"""Where the files of a published data set stand below a folder, and which data set a folder holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from refseg.data.published import PUBLISHED, Counts, Published
from refseg.errors import InvalidInput

HOMES = (Path("data"), Path())
"""Where a data set is looked for that is named without a root."""

REFER_FOLDERS = ("refcoco", "refcoco+", "refcocog", "refclef")
_NEEDED = {
    "refer": ("instances.json",),
    "grefcoco": ("instances.json",),
    "youtube": ("meta_expressions",),
    "davis": (),
    "a2d": ("text_annotations",),
    "jhmdb": ("jhmdb_sentences_samples_metadata.json",),
    "mevis": (),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A data set that was found: its facts, its folder, and the folder above, where pictures may be."""

    facts: Published
    folder: Path

    @property
    def root(self) -> Path:
        """The folder that the published layouts start from."""
        return self.folder.absolute().parent


def find(facts: Published, root: Path | None) -> Place:
    """The folder of a data set: below `root`, or `root` itself; without one, below `data` or here.

    Raises:
        InvalidInput: if it is not there; the message names its layout.
    """
    roots = [root] if root is not None else list(HOMES)
    for base in roots:
        for folder in (base / facts.folder, base):
            if _holds(facts, folder):
                return Place(facts, folder)
    places = " and ".join(str((base / facts.folder).absolute()) for base in roots)
    raise InvalidInput(
        f"{facts.title} was not found: looked for {' and '.join(facts.layout[:2])} in {places}; "
        f"`refseg data get {facts.name}` tells where to download it, --root names the folder that holds {facts.folder}/"
    )


def recognise(folder: Path) -> list[Place]:
    """The published data sets that a folder, or a folder directly below it, holds."""
    found = [Place(facts, folder) for facts in _candidates(folder) if _holds(facts, folder)]
    if found:
        return found
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [Place(facts, path) for path in below for facts in _candidates(path) if _holds(facts, path)]


def _candidates(folder: Path) -> Iterable[Published]:
    """Data sets that may stand in a folder of this name; a refs file of no published set is one of its own."""
    named = [facts for facts in PUBLISHED.values() if facts.folder == folder.absolute().name]
    if named:
        yield from named
        return
    yield from (
        facts for facts in PUBLISHED.values() if facts.form in ("grefcoco", "davis", "a2d", "jhmdb", "mevis")
    )
    splits = [path.parent.name for path in sorted(folder.glob("meta_expressions/*/meta_expressions.json"))]
    if splits:
        youtube = PUBLISHED["ref-youtube-vos"]
        yield youtube if set(splits) >= set(youtube.splits) else own_videos(folder, splits)
    for refs in refs_files(folder):
        yield own_refer(folder, refs)


def own_videos(folder: Path, splits: Iterable[str]) -> Published:
    """The facts of a data set in the layout of Ref-YouTube-VOS that nobody published."""
    name = folder.absolute().name
    return Published(
        name=name,
        title=name,
        task="video",
        form="youtube",
        folder=name,
        licence="not known",
        splits={split: Counts() for split in splits},
        sources=(),
        layout=("meta_expressions/<split>/meta_expressions.json",),
    )


def own_refer(folder: Path, refs: Path) -> Published:
    """The facts of a data set in the form of REFER that nobody published."""
    split_by = refs.stem.removeprefix("refs(").removesuffix(")")
    return Published(
        name=folder.absolute().name,
        title=f"{folder.absolute().name} ({split_by})",
        task="image",
        form="refer",
        folder=folder.absolute().name,
        licence="not known",
        splits={},
        sources=(),
        layout=("instances.json", refs.name),
        split_by=split_by,
        image_folders=PUBLISHED["refcoco"].image_folders,
    )


def refs_files(folder: Path) -> list[Path]:
    """The refs files of REFER in a folder."""
    return sorted(path for path in folder.glob("refs(*)*") if path.suffix in (".p", ".json"))


def refs_file(facts: Published, folder: Path) -> Path | None:
    """The refs file of a data set, if it is there."""
    stem = f"{'grefs' if facts.form == 'grefcoco' else 'refs'}({facts.split_by})"
    return next(
        (folder / f"{stem}{end}" for end in (".json", ".p") if (folder / f"{stem}{end}").is_file()), None
    )


def davis_is_raw(folder: Path) -> bool:
    """Whether Ref-DAVIS17 lies as published, not converted."""
    return (folder / "DAVIS").is_dir() and (folder / "davis_text_annotations").is_dir()


def _holds(facts: Published, folder: Path) -> bool:
    if not all((folder / name).exists() for name in _NEEDED[facts.form]):
        return False
    if facts.form in ("refer", "grefcoco"):
        return refs_file(facts, folder) is not None
    if facts.form == "davis":
        return davis_is_raw(folder) or (
            facts.folder == folder.absolute().name and (folder / "meta_expressions").is_dir()
        )
    if facts.form == "mevis":
        return any((folder / split / "meta_expressions.json").is_file() for split in facts.splits)
    return True
