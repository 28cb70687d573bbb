"""Published data sets opened: facts and a place become the reader of their form."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refseg.data.annotated import ReadOptions
from refseg.data.categories import DAVIS_CATEGORIES, YOUTUBE_CATEGORIES
from refseg.data.fields import LeftOut, OnProblem, raise_problem
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
    chosen = split or DEFAULT_SPLITS.get(form, "val")
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
        from refseg.data.ref_davis import RefDavis

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
    from refseg.data.refer_files import open_refer

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
        on_problem=note,
    )


def _open_samples(place: Place, split: str, count: int | None, options: ReadOptions, note: OnProblem) -> Any:
    from refseg.data.a2d import A2D
    from refseg.data.jhmdb import JHMDB
    from refseg.data.mevis import MeViS

    reader = {"a2d": A2D, "jhmdb": JHMDB, "mevis": MeViS}[place.facts.form]
    return reader(place.folder, split=split, options=options, count=count, on_problem=note)


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
    table = ReferenceTable(open_coco_form(path, split, skips=options.bad_records == "skip"))
    _tell_left_out(name, folder, *table.facts["skipped"])
    return ReferenceImages(name, table, PictureFolders(places), split=None, options=options, count=count)


def _open_video_sentences(
    folder: Path, splits: Sequence[str], split: str, count: int | None, options: ReadOptions
) -> Any:
    from refseg.data.video_sentences import VideoSentences

    if not (folder / f"{split}.json").is_file():
        raise UnknownName(f"split of {folder.name}", split, splits)
    if options.bad_records == "skip":
        raise _cannot_skip("videos in one file a split (VLFormer)")
    return VideoSentences(folder / f"{split}.json", pictures=options.images, count=count)


def _open_parquet(
    folder: Path, files: Sequence[Path], split: str, count: int | None, options: ReadOptions
) -> ReferenceImages:
    from refseg.data.parquet_forms import ParquetPictures, open_parquet

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
