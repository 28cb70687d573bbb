"""RefCOCO/+/g as parquet files of the Hugging Face hub, in two layouts.

"objects" (jxu124): one row an object, geometry as JSON text, no pictures; the file called `test` holds testA where there is
a `testB` too. "lmms" (lmms-lab): one row an object with its picture and one flat polygon in float32, which cannot carry
an object of several parts and can be a pixel off.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg.data.formats.index import Columns, Table
from refseg.data.formats.records import OnProblem, Record, raise_problem
from refseg.data.formats.reference_table import Sentence, TableBuilder
from refseg.data.readers.refer import open_records, read_object, read_picture, read_sentence
from refseg.errors import InvalidInput

_RENAMED = {"validation": "val", "dev": "val"}


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder, or of `data` in it."""
    for place in (folder, folder / "data"):
        found = sorted(place.glob("*.parquet"))
        if found:
            return found
    return []


def split_of(path: Path, others: Iterable[Path]) -> str:
    """The split of RefCOCO that a file holds, by its name ("test-00000-of-00001.parquet")."""
    stem = re.split(r"-\d{5}-of-\d{5}", path.stem)[0]
    if stem == "test" and any(other.stem.startswith("testB") for other in others):
        return "testA"
    return _RENAMED.get(stem, stem)


def open_parquet(files: Sequence[Path], *, skips: bool = False) -> Columns:
    """The index of all files of a data set. `skips` as in `open_refer`.

    Raises:
        InvalidInput: naming file, row and field, if something in them cannot be used; or pyarrow is not installed.
    """
    return open_records(
        files[0].with_name(".parquet"),
        list(files),
        lambda note: build_parquet(files, on_problem=note),
        skips=skips,
    )


def build_parquet(files: Sequence[Path], *, on_problem: OnProblem = raise_problem) -> Table:
    """The files as columns; a row that cannot be used is told to `on_problem` and left out."""
    builder = TableBuilder()
    pictures: dict[Any, int] = {}
    places: list[list[int]] = []  # of each picture: file, row
    is_lmms = False
    for number, path in enumerate(files):
        table = _read(path)
        is_lmms = "raw_anns" not in table.column_names
        needed = (
            ("question_id", "image", "answer", "segmentation") if is_lmms else ("raw_image_info", "sentences")
        )
        missing = [name for name in needed if name not in table.column_names]
        if missing:
            raise InvalidInput(
                f"{path.name} has no column {missing[0]}; it is no form of RefCOCO that is known"
            )
        for row, values in enumerate(_rows(table)):
            record = Record.of(values, f"{path.name} row {row}")
            try:
                (_add_lmms if is_lmms else _add_object)(builder, pictures, record, split_of(path, files))
            except InvalidInput as error:
                on_problem(error)
            if len(places) < len(builder.pictures):
                places.append([number, row])
    categories = sorted({stored[1] for stored in builder.objects})
    facts = {
        "skips_crowds": False,
        "categories": [(category, str(category)) for category in categories],
        "pictures": len(builder.pictures),
        "annotations": len(builder.objects),
        "places": places if is_lmms else [],
    }
    return builder.table(facts)


def _read(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidInput('parquet files need pyarrow; install it: pip install "refseg[data]"') from error
    try:
        return parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidInput(f"{path} cannot be read ({str(error)[:120]}); get a whole copy of it") from error


def _rows(table: Any) -> Iterable[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()


def _add_object(builder: TableBuilder, pictures: dict[Any, int], record: Record, split: str) -> None:
    picture = read_picture(_json_field(record, "raw_image_info"))
    stored = read_object(_json_field(record, "raw_anns"), picture.size)
    sentences = [
        read_sentence(item, f"{record.where} sentence {n}")
        for n, item in enumerate(record.items("sentences"))
    ]
    number = record.whole("ref_id")
    if picture.id not in pictures:
        pictures[picture.id] = builder.add_picture(picture)
    builder.add_reference(
        number,
        picture=pictures[picture.id],
        split=split,
        objects=[builder.add_object(stored)],
        is_empty=False,
        sentences=sentences,
    )


def _json_field(record: Record, field: str) -> Record:
    from pydantic_core import from_json

    try:
        return Record.of(from_json(record.text(field)), f"{record.where}: {field}")
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f'{record.where}: the field "{field}" is no JSON ({error})') from error


def _add_lmms(builder: TableBuilder, pictures: dict[Any, int], record: Record, split: str) -> None:
    name = record.text("file_name") if "file_name" in record.values else f"{record.text('question_id')}.jpg"
    digits = re.findall(r"\d+", Path(name).stem)
    number = int(max(digits, key=len)) if digits else len(pictures)  # COCO's, of twelve digits
    size = _size_of(record)
    said = record.items("answer")
    if not all(isinstance(text, str) for text in said):
        raise record.wrong("answer", "a list of texts")
    asked = record.text("question_id")
    reference = int(asked) if asked.isdecimal() else len(builder.refs)
    annotation = {
        "id": reference,
        "image_id": number,
        "category_id": 0,
        "segmentation": [record.items("segmentation")],
        "bbox": record.values.get("bbox"),
        "iscrowd": record.values.get("iscrowd", 0),
    }
    stored = read_object(Record(annotation, record.where), size)
    if name not in pictures:
        height, width = size
        image = {"id": number, "file_name": name, "height": height, "width": width}
        pictures[name] = builder.add_picture(read_picture(Record(image, record.where)))
    builder.add_reference(
        reference,
        picture=pictures[name],
        split=split,
        objects=[builder.add_object(stored)],
        is_empty=False,
        sentences=[Sentence(n, text, text, tuple(text.split())) for n, text in enumerate(said)],
    )


def _size_of(record: Record) -> tuple[int, int]:
    from PIL import Image

    data = record.mapping("image").values.get("bytes")
    if not isinstance(data, bytes):
        raise InvalidInput(f"{record.where}: its picture is not in the file")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInput(f"{record.where}: its picture is damaged ({str(error)[:80]})") from error


class ParquetPictures:
    """The pictures inside parquet files of the "lmms" layout."""

    def __init__(self, files: Sequence[Path], names: Sequence[str], places: Sequence[Sequence[int]]) -> None:
        self.files = list(files)
        self._places = dict(zip(names, places, strict=True))

    def path(self, file: str) -> Path:
        """The parquet file that holds a picture."""
        return self.files[self._places[file][0]]

    def read(self, file: str) -> Tensor:
        """[1, 3, H, W] uint8.

        Raises:
            InvalidInput: if it is damaged.
        """
        from refseg.media.images import read_image_bytes

        number, row = self._places[file]
        return read_image_bytes(
            _picture_bytes(self.files[number], row), f"{self.files[number].name} row {row}"
        )


def _picture_bytes(path: Path, row: int) -> bytes:
    """The bytes of one picture; only the group of rows around it is read."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return file.read_row_group(group, columns=["image"])["image"][row].as_py()["bytes"]
        row -= rows
    raise InvalidInput(f"{path.name} has no row {row}; it was changed since it was opened")
