"""Checks of pictures with references: records, counts, outlines, and pictures that stand in two places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from refseg.data.catalog import Place, picture_folders, recognise, refs_file
from refseg.data.dataset import ReadOptions
from refseg.data.doctor.files import ToSee, check_pictures
from refseg.data.doctor.findings import DoctorReport, Progress, report_to, with_progress
from refseg.data.formats.index import Columns, Table, write_columns
from refseg.data.formats.masks import LEAST_NUMBERS
from refseg.data.formats.reference_table import ReferenceTable
from refseg.data.published import Counts, Published
from refseg.data.readers.image_set import PictureFolders, PictureStore
from refseg.errors import InvalidInput

_HELD_OUT = ("val", "test", "testA", "testB", "testC", "testAB", "testBC", "testAC")


def check_references(report: DoctorReport, place: Place, *, is_quick: bool, watch: Progress) -> None:
    """Everything about a data set in the form of REFER or gRefCOCO."""
    table = read_table(report, place)
    if table is None:
        return
    check_counts(report, place.facts, count_splits(table))
    store = PictureFolders(picture_folders(place, ReadOptions()))
    check_table(report, table, store, is_quick=is_quick, watch=watch)
    check_shared(report, place, table)


def read_table(report: DoctorReport, place: Place) -> ReferenceTable | None:
    """The references that can be used; the others are told. None if the files cannot be read at all."""
    from refseg.data.readers.refer import build_refer

    refs = refs_file(place.facts, place.folder)
    assert refs is not None
    try:
        table = build_refer(
            place.folder / "instances.json",
            refs,
            several=place.facts.form == "grefcoco",
            on_problem=report_to(report),
        )
    except InvalidInput as error:
        report.add("file", str(error))
        return None
    return as_references(table)


def as_references(table: Table) -> ReferenceTable:
    """A table in a temporary file, so that a check leaves nothing beside the data."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        write_columns(path, table.facts, table.arrays, table.texts)
        return ReferenceTable(Columns(path))  # stays mapped after the file is gone


def count_splits(table: ReferenceTable) -> dict[str, Counts]:
    """Pictures, objects and phrases of every split, by its name in the records."""
    found = {}
    for number, split in enumerate(table.splits):
        rows = np.flatnonzero(table.arrays["ref.split"] == number)
        starts = table.arrays["ref.sentences"]
        found[split] = Counts(
            clips=len(np.unique(table.arrays["ref.picture"][rows])),
            objects=len(rows),
            phrases=int((starts[rows + 1] - starts[rows]).sum()),
        )
    return found


def check_counts(report: DoctorReport, facts: Published, found: dict[str, Counts]) -> None:
    """Every count of the published table beside the one that was found."""
    what = "pictures" if facts.task != "video" else "videos"
    for split in [*facts.splits, *(name for name in found if name not in facts.splits)]:
        if split not in found:
            report.add("split-missing", split)
            continue
        _compare(report, split, what, found[split], facts.splits.get(split, Counts()))
    if facts.splits and set(facts.splits) <= set(found) and facts.form not in ("a2d", "jhmdb"):
        _compare(report, "all", what, _every(facts, found), facts.total)


def _every(facts: Published, found: dict[str, Counts]) -> Counts:
    """The published splits together; None where one of them does not tell.

    Records of gRefCOCO name several objects, or the same ones; its publication counts each object once.
    """
    several = facts.form == "grefcoco"

    def summed(field: str) -> int | None:
        parts = [getattr(found[split], field) for split in facts.splits]
        return None if None in parts or (several and field == "objects") else sum(parts)

    # Splits by object share pictures, and no total of them is published.
    clips = summed("clips") if facts.total.clips is not None else None
    return Counts(clips, summed("objects"), summed("phrases"))


def _compare(report: DoctorReport, split: str, what: str, found: Counts, told: Counts) -> None:
    pairs = (
        (what, found.clips, told.clips),
        ("objects", found.objects, told.objects),
        ("phrases", found.phrases, told.phrases),
    )
    for name, here, published in pairs:
        if here is None:
            continue
        report.counts.append({"split": split, "what": name, "found": here, "published": published})
        if published is not None and published != here:
            check = "count-rough" if told.is_rough else "count"
            report.add(check, f"{split} has {here:,} {name}, and {published:,} are published")


def check_table(
    report: DoctorReport, table: ReferenceTable, store: PictureStore, *, is_quick: bool, watch: Progress
) -> None:
    """Outlines, masks, phrases and pictures of all references."""
    _check_ids(report, table)
    rows = range(len(table))
    looked: set[int] = set()  # objects that several records name are looked at once
    for row in with_progress(rows, "references", len(table), watch):
        _check_reference(report, table, row)
        for place in table.targets(row):
            if place not in looked:
                looked.add(place)
                _check_outline(report, table, row, place)
    used = np.unique(table.arrays["ref.picture"]).tolist()
    pictures = (table.picture(row) for row in used)
    files = (ToSee(store.path(picture.file), picture.size, picture.file) for picture in pictures)
    if not table.facts.get("places"):  # pictures inside parquet files were opened with them
        check_pictures(report, files, len(used), is_quick=is_quick, watch=watch)


def _check_ids(report: DoctorReport, table: ReferenceTable) -> None:
    for name in ("ref", "sentence"):
        numbers, counts = np.unique(table.arrays[f"{name}.id"], return_counts=True)
        for number, count in zip(numbers[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            if not (name == "sentence" and table.facts.get("places")):  # counted within a row there
                report.add("id-twice", f"{name}_id {number}, {count} times")


def _check_reference(report: DoctorReport, table: ReferenceTable, row: int) -> None:
    report.looked("references")
    number = int(table.arrays["ref.id"][row])
    counted = table.count_mask(row)
    if not counted.any() and not table.arrays["ref.empty"][row]:
        report.add("mask-empty", f"reference {number}")
    several = len(table.targets(row)) > 1
    if (counted > 1).any() and not several:
        report.add("parts-overlap", f"reference {number}, {int((counted > 1).sum())} pixels")
    for sentence in table.sentence_rows(row):
        report.looked("phrases")
        if not table.text(sentence, "sent").strip() and not table.text(sentence, "raw").strip():
            report.add("phrase-empty", f"sentence {int(table.arrays['sentence.id'][sentence])}")


def _check_outline(report: DoctorReport, table: ReferenceTable, row: int, place: int) -> None:
    height, width = table.picture_size(row)
    number = int(table.arrays["object.id"][place])
    polygons = [part for part in table.parts(place) if not isinstance(part, bytes)]
    for part in polygons:
        if len(part) < LEAST_NUMBERS or len(part) % 2:
            report.add("parts-small", f"annotation {number}, {len(part)} numbers")
    xs = np.concatenate([part[0::2] for part in polygons]) if polygons else np.empty(0)
    ys = np.concatenate([part[1::2] for part in polygons]) if polygons else np.empty(0)
    # Edges of COCO lie up to one pixel beyond the last one, which is no mistake.
    if (xs < -1).any() or (xs > width + 1).any() or (ys < -1).any() or (ys > height + 1).any():
        report.add("parts-outside", f"annotation {number}")


def check_shared(report: DoctorReport, place: Place, table: ReferenceTable) -> None:
    """Pictures of train that this or another data set below the same root measures on."""
    training = _pictures(table, ["train"])
    for other in _neighbours(place):
        if other.facts.name == place.facts.name:
            shared = len(training & _pictures(table, _HELD_OUT))
            if shared:
                report.add("shared-own", f"{shared:,} pictures of {place.facts.name}")
            continue
        if other.facts.image_folders != place.facts.image_folders:
            continue  # their pictures are not COCO's; equal numbers mean nothing
        theirs = read_table(DoctorReport("", "", ""), other)  # what is wrong with it, its own check tells
        held_out = _pictures(theirs, _HELD_OUT) if theirs is not None else set()
        shared = len(training & held_out)
        if shared:
            report.add("shared-other", f"{shared:,} pictures are in val or test of {other.facts.name}")


def _neighbours(place: Place) -> Sequence[Place]:
    found = [other for other in recognise(place.root) if other.facts.form in ("refer", "grefcoco")]
    return found or [place]


def _pictures(table: ReferenceTable, splits: Iterable[str]) -> set[int]:
    wanted = [number for number, name in enumerate(table.splits) if name in splits]
    rows = np.isin(table.arrays["ref.split"], wanted)
    return set(table.arrays["picture.id"][table.arrays["ref.picture"][rows]].tolist())
