"""Published data sets opened: facts and a place become the reader of their form."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refseg.data.annotated import ReadOptions
from refseg.data.categories import DAVIS_CATEGORIES, YOUTUBE_CATEGORIES
from refseg.data.layouts import Place, davis_is_raw, find, recognise, refs_file
from refseg.data.published import COCO_FOLDERS, Published, published
from refseg.data.reference_images import PictureFolders, ReferenceImages
from refseg.data.references import ReferenceTable
from refseg.errors import InvalidInput, UnknownName

DEFAULT_SPLITS = {"youtube": "valid", "davis": "valid", "a2d": "test", "jhmdb": "test", "mevis": "valid_u"}
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
    from refseg.data.parquet_forms import parquet_files
    from refseg.data.sentence_forms import split_files

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


def open_place(place: Place, *, split: str | None, count: int | None, options: ReadOptions) -> Any:
    """The data set of a place that was found."""
    form, folder = place.facts.form, place.folder
    chosen = split or DEFAULT_SPLITS.get(form, "val")
    if form in ("refer", "grefcoco"):
        table = open_table(place, skips=options.bad_records == "skip")
        return ReferenceImages(
            place.facts.name,
            table,
            PictureFolders(picture_folders(place, options)),
            split=chosen,
            options=_with_text(options, place.facts),
            count=count,
        )
    if form == "davis" and davis_is_raw(folder):
        from refseg.data.ref_davis import RefDavis

        return RefDavis(folder, split=chosen, options=options, count=count)
    if form in ("youtube", "davis"):
        return _open_youtube(place, chosen, count, options)
    return _open_samples(form, folder, chosen, count, options)


def open_table(place: Place, *, skips: bool = False) -> ReferenceTable:
    """The references of a data set in the form of REFER or gRefCOCO; `skips` as in `open_refer`."""
    from refseg.data.refer_files import open_refer

    refs = refs_file(place.facts, place.folder)
    assert refs is not None
    several = place.facts.form == "grefcoco"
    table = ReferenceTable(open_refer(place.folder, refs, several=several, skips=skips))
    count, reasons = table.facts["skipped"]
    if count:
        warnings.warn(
            f"{count} records of {place.facts.name} cannot be used and were left out, the first because {reasons[0]}; "
            f"`refseg data doctor {place.folder}` lists them",
            stacklevel=2,
        )
    return table


def picture_folders(place: Place, options: ReadOptions) -> Sequence[Path]:
    """Where pictures may be, in the order in which they are looked for."""
    if options.images is not None:
        return [options.images]
    inside = [place.root / folder for folder in place.facts.image_folders]
    return [*inside, *(place.folder / folder for folder in (*place.facts.image_folders, "images"))]


def _with_text(options: ReadOptions, facts: Published) -> ReadOptions:
    return replace(options, text=options.text or facts.default_text)


def _open_youtube(place: Place, split: str, count: int | None, options: ReadOptions) -> Any:
    from refseg.data.ref_davis import ANNOTATORS
    from refseg.data.ref_youtube_vos import RefYouTubeVOS

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
    )


def _open_samples(form: str, folder: Path, split: str, count: int | None, options: ReadOptions) -> Any:
    if form == "a2d":
        from refseg.data.a2d import A2D

        return A2D(folder, split=split, options=options, count=count)
    if form == "jhmdb":
        from refseg.data.jhmdb import JHMDB

        return JHMDB(folder, split=split, options=options, count=count)
    from refseg.data.mevis import MeViS

    return MeViS(folder, split=split, options=options, count=count)


def _open_coco_form(
    folder: Path, files: dict[tuple[str, str], Path], split: str, count: int | None, options: ReadOptions
) -> ReferenceImages:
    from refseg.data.sentence_forms import open_coco_form

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
    table = ReferenceTable(open_coco_form(path, split))
    return ReferenceImages(name, table, PictureFolders(places), split=None, options=options, count=count)


def _open_video_sentences(
    folder: Path, splits: Sequence[str], split: str, count: int | None, options: ReadOptions
) -> Any:
    from refseg.data.video_sentences import VideoSentences

    if not (folder / f"{split}.json").is_file():
        raise UnknownName(f"split of {folder.name}", split, splits)
    return VideoSentences(folder / f"{split}.json", pictures=options.images, count=count)


def _open_parquet(
    folder: Path, files: Sequence[Path], split: str, count: int | None, options: ReadOptions
) -> ReferenceImages:
    from refseg.data.parquet_forms import ParquetPictures, open_parquet

    table = ReferenceTable(open_parquet(files))
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
