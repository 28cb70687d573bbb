"""Where the files of a published data set stand below a folder, and which data set a folder holds.

Published data sets opened: facts and a place become the reader of their form.

Data sets by name or by path, behind one small door.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refseg.data.dataset import PhraseDataset, ReadOptions
from refseg.data.formats.records import LeftOut, OnProblem, raise_problem
from refseg.data.formats.reference_table import ReferenceTable
from refseg.data.published import (
    COCO_FOLDERS,
    DAVIS_CATEGORIES,
    PUBLISHED,
    YOUTUBE_CATEGORIES,
    Counts,
    Published,
    published,
)
from refseg.data.readers.image_set import PictureFolders, ReferenceImages
from refseg.errors import InvalidInput, UnknownName

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


PUBLISHED_SPLITS = {"youtube": "valid", "davis": "valid", "a2d": "test", "jhmdb": "test", "mevis": "valid_u"}
"""What is read of a data set where no split is named; of pictures it is "val"."""


def open_published(
    name: str, *, split: str | None, root: Path | None, count: int | None, options: ReadOptions
) -> Any:
    """The data set called `name`, below `root`.

    Raises:
        UnknownName: if name or split is unknown.
        InvalidInput: if it is not there, or its files cannot be used.
    """
    return open_place(find(published(name), root), split=split, count=count, options=options)


def open_folder(folder: Path, *, split: str | None, count: int | None, options: ReadOptions) -> Any | None:
    """The published data set that a folder holds; None if it holds none.

    Raises:
        InvalidInput: if it holds several, or its files cannot be used.
    """
    from refseg.data.readers.coco_style import split_files
    from refseg.data.readers.parquet import parquet_files

    places = recognise(folder)
    if len(places) == 1:
        return open_place(places[0], split=split, count=count, options=options)
    if places:
        names = ", ".join(place.facts.name for place in places)
        raise InvalidInput(f"the folder {folder} holds {names}; name the one to read, with --root {folder}")
    files = parquet_files(folder)
    if files:
        return _open_parquet(folder, files, split or "val", count, options)
    per_split = split_files(folder)
    if per_split:
        return _open_coco_form(folder, per_split, split or "val", count, options)
    sentences = [name for name in ("train", "valid", "test") if (folder / f"{name}.json").is_file()]
    if sentences:
        return _open_video_sentences(folder, sentences, split or "valid", count, options)
    return None


def open_place(
    place: Place,
    *,
    split: str | None,
    count: int | None,
    options: ReadOptions,
    on_problem: OnProblem = raise_problem,
) -> Any:
    """The data set of a place that was found; of a video data set `on_problem` hears of every record that cannot be used."""
    form, folder = place.facts.form, place.folder
    chosen = split or PUBLISHED_SPLITS.get(form, "val")
    skips = options.bad_records == "skip"
    if form in ("refer", "grefcoco"):
        table = open_table(place, skips=skips)
        return ReferenceImages(
            place.facts.name,
            table,
            PictureFolders(picture_folders(place, options)),
            split=chosen,
            options=_with_text(options, place.facts),
            count=count,
        )
    if form == "davis" and davis_is_raw(folder):
        from refseg.data.readers.ref_davis import RefDavis

        if skips:
            raise _cannot_skip("the four lists of Ref-DAVIS17, whose lines belong together")
        return RefDavis(folder, split=chosen, options=options, count=count)
    left_out = LeftOut()
    note = left_out.note if skips else on_problem
    opener = _open_youtube if form in ("youtube", "davis") else _open_samples
    data = opener(place, chosen, count, options, note)
    data.num_left_out = _tell_left_out(place.facts.name, folder, len(left_out.reasons), left_out.reasons)
    return data


def _cannot_skip(what: str) -> InvalidInput:
    return InvalidInput(
        f'bad_records = "skip" is not supported for {what}; leave it out, and mend what the refusal names'
    )


def _tell_left_out(name: str, folder: Path, count: int, reasons: Sequence[str]) -> int:
    """Warns of records that were left out; returns their number."""
    if count:
        warnings.warn(
            f"{count} {'record' if count == 1 else 'records'} of {name} cannot be used and "
            f"{'was' if count == 1 else 'were'} left out, the first because {reasons[0]}; "
            f"`refseg data doctor {folder}` lists them",
            stacklevel=3,
        )
    return count


def open_table(place: Place, *, skips: bool = False) -> ReferenceTable:
    """The references of a data set in the form of REFER or gRefCOCO; `skips` as in `open_refer`."""
    from refseg.data.readers.refer import open_refer

    refs = refs_file(place.facts, place.folder)
    assert refs is not None
    several = place.facts.form == "grefcoco"
    table = ReferenceTable(open_refer(place.folder, refs, several=several, skips=skips))
    _tell_left_out(place.facts.name, place.folder, *table.facts["skipped"])
    return table


def picture_folders(place: Place, options: ReadOptions) -> Sequence[Path]:
    """Where pictures may be, in the order in which they are looked for."""
    if options.images is not None:
        return [options.images]
    inside = [place.root / folder for folder in place.facts.image_folders]
    return [*inside, *(place.folder / folder for folder in (*place.facts.image_folders, "images"))]


def _with_text(options: ReadOptions, facts: Published) -> ReadOptions:
    return replace(options, text=options.text or facts.default_text)


def _open_youtube(place: Place, split: str, count: int | None, options: ReadOptions, note: OnProblem) -> Any:
    from refseg.data.readers.ref_davis import ANNOTATORS
    from refseg.data.readers.ref_youtube_vos import RefYouTubeVOS

    is_davis = place.facts.form == "davis"
    return RefYouTubeVOS(
        place.folder,
        split="valid" if is_davis and split == "val" else split,
        options=options,
        name=place.facts.name,
        categories=DAVIS_CATEGORIES if is_davis else YOUTUBE_CATEGORIES,
        is_sorted=not is_davis,
        registers=ANNOTATORS if is_davis else (),
        count=count,
        on_problem=note,
    )


def _open_samples(place: Place, split: str, count: int | None, options: ReadOptions, note: OnProblem) -> Any:
    from refseg.data.readers.a2d import A2D
    from refseg.data.readers.jhmdb import JHMDB
    from refseg.data.readers.mevis import MeViS

    readers: dict[str, Any] = {"a2d": A2D, "jhmdb": JHMDB, "mevis": MeViS}
    reader = readers[place.facts.form]
    return reader(place.folder, split=split, options=options, count=count, on_problem=note)


def _open_coco_form(
    folder: Path, files: dict[tuple[str, str], Path], split: str, count: int | None, options: ReadOptions
) -> ReferenceImages:
    from refseg.data.readers.coco_style import open_coco_form

    named = {name for name, _ in files}
    if len(named) > 1:
        raise InvalidInput(
            f"the folder {folder} holds {', '.join(sorted(named))} in the per-sentence form; give each a folder"
        )
    name = named.pop()
    path = files.get((name, split))
    if path is None:
        raise UnknownName(f"split of {folder.name}", split, [known for _, known in files])
    above = folder.absolute().parent
    places = [options.images] if options.images else [above, above / "train2014", folder]
    table = ReferenceTable(open_coco_form(path, split, skips=options.bad_records == "skip"))
    _tell_left_out(name, folder, *table.facts["skipped"])
    return ReferenceImages(name, table, PictureFolders(places), split=None, options=options, count=count)


def _open_video_sentences(
    folder: Path, splits: Sequence[str], split: str, count: int | None, options: ReadOptions
) -> Any:
    from refseg.data.readers.vlformer_video import VideoSentences

    if not (folder / f"{split}.json").is_file():
        raise UnknownName(f"split of {folder.name}", split, splits)
    if options.bad_records == "skip":
        raise _cannot_skip("videos in one file a split (VLFormer)")
    return VideoSentences(folder / f"{split}.json", pictures=options.images, count=count)


def _open_parquet(
    folder: Path, files: Sequence[Path], split: str, count: int | None, options: ReadOptions
) -> ReferenceImages:
    from refseg.data.readers.parquet import ParquetPictures, open_parquet

    table = ReferenceTable(open_parquet(files, skips=options.bad_records == "skip"))
    _tell_left_out(folder.absolute().name, folder, *table.facts["skipped"])
    places = table.facts["places"]
    if places:
        names = [table.picture(row).file for row in range(len(places))]
        store: Any = ParquetPictures(files, names, places)
    else:
        bases = (folder, folder.absolute().parent)
        store = PictureFolders(
            [options.images] if options.images else [b / f for b in bases for f in COCO_FOLDERS]
        )
    return ReferenceImages(folder.absolute().name, table, store, split=split, options=options, count=count)


DEFAULT_SPLITS = {"scenes": "val"}
"""Data sets that are known by name, and what is read of them where no split is named; everything else is a path."""


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
    from refseg.data.readers.phrase_file import PhraseFile

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
    from refseg.data.dataset import ReadOptions as Options

    options = options or Options()
    if is_name:
        return open_published(name, split=split, root=root, count=count, options=options)
    return open_folder(folder, split=split, count=count, options=options)


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
