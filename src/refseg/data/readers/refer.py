"""The files of REFER and of gRefCOCO: `instances.json` in COCO's form, and a list of references over it.

The references are a pickle (REFER, early gRefCOCO) or JSON (gRefCOCO). `file_name` of a record is no file, and is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refseg.data.formats.index import Columns, Table, open_index
from refseg.data.formats.masks import check_parts
from refseg.data.formats.plain_pickle import load_plain_pickle
from refseg.data.formats.records import LeftOut, OnProblem, Record, raise_problem, read_json, read_json_object
from refseg.data.formats.reference_table import Picture, Sentence, StoredObject, TableBuilder
from refseg.errors import InvalidInput
from refseg.structures import Size

NO_TARGET = [-1]
"""The `ann_id` of a record of gRefCOCO that nothing answers to."""

_MOST_SIDE = 65_500
_MOST_REASONS = 20


def open_refer(folder: Path, refs: Path, *, several: bool, skips: bool = False) -> Columns:
    """The index of `instances.json` and a refs file of a folder, built where it is not there.

    Args:
        folder: the folder of `instances.json`.
        refs: the refs file.
        several: whether records may name several objects or none, as those of gRefCOCO do.
        skips: leave out records that cannot be used; the index counts them.

    Raises:
        InvalidInput: naming file, record and field, if something in them cannot be used.
    """
    instances = folder / "instances.json"
    return open_records(
        folder / f".{refs.stem}",
        [instances, refs],
        lambda note: build_refer(instances, refs, several=several, on_problem=note),
        skips=skips,
    )


def open_records(
    stem: Path, sources: Sequence[Path], build: Callable[[OnProblem], Table], *, skips: bool
) -> Columns:
    """The index of records; with `skips` those that cannot be used are left out, counted in it, and it has a name of its own."""
    ending = ".skipping.refseg-index" if skips else ".refseg-index"

    def table() -> Table:
        left_out = LeftOut()
        built = build(left_out.note if skips else raise_problem)
        built.facts["skipped"] = [len(left_out.reasons), left_out.reasons[:_MOST_REASONS]]
        return built

    return open_index(stem.with_name(stem.name + ending), sources, table)


def build_refer(
    instances: Path, refs: Path, *, several: bool, on_problem: OnProblem = raise_problem
) -> Table:
    """Both files as columns; a record that cannot be used is told to `on_problem` and left out."""
    records = read_refs(refs)
    file = read_json_object(instances)
    builder = _Reader(file, records, instances.name, on_problem)
    for number, record in enumerate(records):
        try:
            builder.add(Record.of(record, f"{refs.name} record {number}"), several=several)
        except InvalidInput as error:
            on_problem(error)
    facts = {
        "skips_crowds": several,
        "categories": builder.categories,
        "pictures": len(file.items("images")),
        "annotations": len(file.items("annotations")),
        "extra": {key: file.values[key] for key in ("info", "licenses", "categories") if key in file.values},
    }
    return builder.builder.table(facts)


def read_refs(path: Path) -> list[Any]:
    """The records of a refs file.

    Raises:
        InvalidInput: if it cannot be read, or holds no list.
    """
    records = read_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    if not isinstance(records, list):
        raise InvalidInput(f"{path} holds no list of references; is it a refs file?")
    most = path.stat().st_size  # records that share their sentences would be more than the file can hold
    if sum(len(r.get("sentences") or ()) for r in records if isinstance(r, dict) and _has_list(r)) > most:
        raise InvalidInput(f"{path} holds more sentences than bytes; get the file from its publisher")
    return records


def _has_list(record: dict[Any, Any]) -> bool:
    return isinstance(record.get("sentences"), list)


class _Reader:
    """Joins references with the pictures and annotations that they name."""

    def __init__(self, file: Record, records: Sequence[Any], name: str, on_problem: OnProblem) -> None:
        self.name, self.builder = name, TableBuilder()
        self.on_problem = on_problem
        self.categories = read_categories(file)
        wanted = {number for record in records for number in _find_named(record)}
        self._images = _by_id(file, "images", set(_pictures_of(records)), on_problem)
        self._annotations = _by_id(file, "annotations", wanted, on_problem)
        self._pictures: dict[int, int] = {}  # rows by id
        self._objects: dict[int, int] = {}

    def add(self, record: Record, *, several: bool) -> None:
        """One record; nothing of it is kept if a field is wrong."""
        number = record.whole("ref_id")
        names = annotation_ids(record) if several else [record.whole("ann_id")]
        sentences = [
            read_sentence(item, f"{record.where} sentence {n}")
            for n, item in enumerate(record.items("sentences"))
        ]
        is_empty = several and names == NO_TARGET
        split = record.text("split")
        picture = self._picture(record)
        objects = [] if is_empty else [self._object(record, name, picture) for name in names]
        self.builder.add_reference(
            number, picture=picture, split=split, objects=objects, is_empty=is_empty, sentences=sentences
        )

    def _picture(self, record: Record) -> int:
        number = record.whole("image_id")
        if number not in self._pictures:
            if number not in self._images:
                raise InvalidInput(
                    f'{record.where}: "image_id" is {number}, and {self.name} has no such picture'
                )
            self._pictures[number] = self.builder.add_picture(read_picture(self._images[number]))
        return self._pictures[number]

    def _object(self, record: Record, number: int, picture: int) -> int:
        if number not in self._annotations:
            raise InvalidInput(
                f'{record.where}: "ann_id" is {number}, and {self.name} has no such annotation'
            )
        annotation, there = self._annotations[number], self.builder.pictures[picture]
        if annotation.whole("image_id") != there.id:
            raise InvalidInput(
                f"{record.where}: its object {number} lies in picture {annotation.values['image_id']}, and the record "
                f"speaks of picture {there.id}"
            )
        if number not in self._objects:
            self._objects[number] = self.builder.add_object(read_object(annotation, there.size))
        return self._objects[number]


def read_categories(file: Record) -> list[tuple[int, str]]:
    """Numbers and names, by number."""
    records = [
        Record.of(item, f"{file.where} category {n}") for n, item in enumerate(file.items("categories"))
    ]
    return sorted((record.whole("id"), record.text("name")) for record in records)


def read_picture(image: Record) -> Picture:
    """An entry of "images"."""
    height, width = image.whole("height", least=1), image.whole("width", least=1)
    if max(height, width) > _MOST_SIDE:
        raise InvalidInput(
            f'{image.where}: "height" and "width" are {height} and {width}; no picture is so large'
        )
    name = image.text("file_name")
    if name.startswith("/") or ".." in Path(name).parts or "\x00" in name:
        raise InvalidInput(f'{image.where}: "file_name" is {name!r}, which leaves the folder of pictures')
    return Picture(image.whole("id"), (height, width), name)


def read_object(annotation: Record, size: Size) -> StoredObject:
    """An entry of "annotations" about a picture of `size`."""
    values = annotation.values
    try:
        parts = check_parts(values.get("segmentation"), size)
    except InvalidInput as error:
        raise InvalidInput(
            f'{annotation.where}: the field "segmentation" cannot be drawn: {error}'
        ) from error
    return StoredObject(
        id=annotation.whole("id"),
        category=annotation.whole("category_id"),
        is_crowd=bool(values.get("iscrowd", 0)),
        box=tuple(annotation.numbers("bbox", 4)) if "bbox" in values else (math.nan,) * 4,  # type: ignore[arg-type]
        area=annotation.number("area") if "area" in values else math.nan,
        parts=tuple(parts),
        is_bare=isinstance(values["segmentation"], dict),
    )


def annotation_ids(record: Record) -> list[int]:
    """`ann_id` of gRefCOCO: a list, or one number that stands for a list of one.

    An empty list is no statement that nothing answers: only [-1] is.
    """
    value = record.values.get("ann_id")
    if not isinstance(value, list):
        return [record.whole("ann_id")]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise record.wrong("ann_id", "a number, or a list of numbers")
    return value


def read_sentence(item: Any, where: str) -> Sentence:
    """An entry of "sentences"; `raw` and `tokens` follow from `sent` where they are not stored."""
    record = Record.of(item, where)
    sent = record.text("sent")
    tokens = record.values.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str | bytes) for t in tokens):
        tokens = sent.split()
    words = tuple(t if isinstance(t, str) else t.decode("latin-1") for t in tokens)
    raw = record.text("raw") if "raw" in record.values else sent
    return Sentence(record.whole("sent_id"), raw, sent, words)


def _by_id(file: Record, field: str, wanted: set[int], on_problem: OnProblem) -> dict[int, Record]:
    """The entries of a list that somebody names, by their id; of two with one id the later counts."""
    found = {}
    for number, item in enumerate(file.items(field)):
        where = f"{file.where} {field} {number}"
        if not isinstance(item, dict) or not isinstance(item.get("id"), int):
            try:
                item_id = Record.of(item, where).whole("id")
            except InvalidInput as error:
                on_problem(error)
                continue
        else:
            item_id = item["id"]
        if item_id in wanted:
            found[item_id] = Record(item, f"{where} (id {item_id})")
    return found


def _find_named(record: Any) -> list[int]:
    value = record.get("ann_id") if isinstance(record, dict) else None
    values = value if isinstance(value, list) else [value]
    return [int(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _pictures_of(records: Sequence[Any]) -> list[int]:
    values = [record.get("image_id") for record in records if isinstance(record, dict)]
    return [int(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
