"""Objects of pictures and what people say of them, as columns: what every image data set becomes when it is indexed.

Only objects that somebody refers to are kept. A reference is a record of the data set: one object (gRefCOCO: several, or
none) with its phrases; records keep the order of their file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from refseg.data.formats.index import Columns, Table
from refseg.data.formats.masks import MaskRule, Part, draw, draw_count
from refseg.errors import UnknownName
from refseg.structures import Size

SPLIT_QUERIES = ("train", "val", "test", "testA", "testB", "testC", "testAB", "testBC", "testAC")
"""Names of splits that the published REFER API knows, whether a data set has them or not."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as its annotations know it."""

    id: int
    size: Size
    file: str  # as stored, below the folder of pictures


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An annotated object."""

    id: int
    category: int  # the number in the file, for COCO 1..90
    is_crowd: bool
    box: tuple[float, float, float, float]  # x, y, width, height as stored; NaN where there is none
    area: float  # as stored; differs from the number of pixels
    parts: tuple[Part, ...]
    is_bare: bool  # stored as one run-length code, not as a list of parts


@dataclass(frozen=True, slots=True)
class Sentence:
    """One phrase about an object."""

    id: int
    raw: str  # as typed by the annotator
    sent: str  # as cleaned by the publisher
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One record of the data set."""

    id: int
    picture: Picture
    split: str
    objects: tuple[StoredObject, ...]
    has_no_target: bool  # the data set says that nothing answers; an empty mask alone does not
    sentences: tuple[Sentence, ...]


class ReferenceTable:
    """The references of one data set; reads what it is asked for from the mapped file."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.facts = columns.facts
        names = (
            "picture.id picture.size object.id object.category object.crowd object.box object.area object.bare object.parts "
            "part.is_code part.starts part.ends ref.id ref.picture ref.split ref.empty ref.objects object_of_ref ref.sentences sentence.id"
        )
        self.arrays = {name: columns.array(name) for name in names.split()}
        self._points, self._codes = columns.array("points"), columns.array("codes")
        self._files, self._raw = columns.texts("picture.file"), columns.texts("raw")
        self._sent, self._tokens = columns.texts("sent"), columns.texts("tokens")
        self.splits: tuple[str, ...] = tuple(self.facts["splits"])

    def __getstate__(self) -> Columns:
        return self.columns

    def __setstate__(self, state: Columns) -> None:
        self.__init__(state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.arrays["ref.id"])

    @property
    def categories(self) -> dict[int, str]:
        """The names of categories by their numbers, as stored."""
        return {int(number): name for number, name in self.facts["categories"]}

    def query(
        self,
        split: str | None = None,
        *,
        categories: Iterable[int] | None = None,
        ids: Iterable[int] | None = None,
        pictures: Iterable[int] | None = None,
    ) -> np.ndarray:
        """Rows of references in the order of the file.

        Args:
            split: as the REFER API reads it: "testA", "testB" and "testC" match every split that holds their last letter,
                "test" every one that holds "test", other names exactly; None is no filter.
            categories: numbers of categories; the first object of a reference counts.
            ids: numbers of references.
            pictures: numbers of pictures.

        Raises:
            UnknownName: if no record has the split, and the REFER API does not know the name either.
        """
        keep = np.ones(len(self), dtype=bool)
        if split:
            keep &= np.isin(self.arrays["ref.split"], self._splits_of(split))
        if categories is not None:
            keep &= np.isin(self._first_category(), list(categories))
        if ids is not None:
            keep &= np.isin(self.arrays["ref.id"], list(ids))
        if pictures is not None:
            keep &= np.isin(self.arrays["picture.id"][self.arrays["ref.picture"]], list(pictures))
        return np.flatnonzero(keep)

    def _splits_of(self, asked: str) -> list[int]:
        if asked not in SPLIT_QUERIES and asked not in self.splits:
            raise UnknownName("split", asked, self.splits)
        if asked in ("testA", "testB", "testC"):
            return [number for number, name in enumerate(self.splits) if asked[-1] in name]
        if asked == "test":
            return [number for number, name in enumerate(self.splits) if "test" in name]
        return [number for number, name in enumerate(self.splits) if name == asked]

    def _first_category(self) -> np.ndarray:
        starts, objects = self.arrays["ref.objects"], self.arrays["object_of_ref"]
        first = np.full(len(self), -1, dtype=np.int64)
        some = np.flatnonzero(np.diff(starts))
        first[some] = self.arrays["object.category"][objects[starts[some]]]
        return first

    def reference(self, row: int) -> Reference:
        """The reference of a row."""
        arrays = self.arrays
        first, last = arrays["ref.objects"][row : row + 2]
        return Reference(
            id=int(arrays["ref.id"][row]),
            picture=self.picture(int(arrays["ref.picture"][row])),
            split=self.splits[arrays["ref.split"][row]],
            objects=tuple(self.object(int(number)) for number in arrays["object_of_ref"][first:last]),
            has_no_target=bool(arrays["ref.empty"][row]),
            sentences=tuple(self.sentence(number) for number in self.sentence_rows(row)),
        )

    def sentence_rows(self, row: int) -> range:
        """Rows of the sentences of a reference."""
        first, last = self.arrays["ref.sentences"][row : row + 2]
        return range(int(first), int(last))

    def picture(self, row: int) -> Picture:
        """The picture of a row."""
        height, width = self.arrays["picture.size"][row]
        return Picture(int(self.arrays["picture.id"][row]), (int(height), int(width)), self._files[row])

    def sentence(self, row: int) -> Sentence:
        """The sentence of a row."""
        sent, tokens = self._sent[row], self._tokens[row]
        return Sentence(
            id=int(self.arrays["sentence.id"][row]),
            raw=self._raw[row],
            sent=sent,
            tokens=tuple(json.loads(tokens)) if tokens else tuple(sent.split()),
        )

    def text(self, row: int, kind: str) -> str:
        """The words of a sentence: "raw" or "sent"."""
        return self._raw[row] if kind == "raw" else self._sent[row]

    def object(self, row: int) -> StoredObject:
        """The object of a row."""
        arrays = self.arrays
        return StoredObject(
            id=int(arrays["object.id"][row]),
            category=int(arrays["object.category"][row]),
            is_crowd=bool(arrays["object.crowd"][row]),
            box=tuple(arrays["object.box"][row].tolist()),
            area=float(arrays["object.area"][row]),
            parts=self.parts(row),
            is_bare=bool(arrays["object.bare"][row]),
        )

    def parts(self, row: int) -> tuple[Part, ...]:
        """The parts of an object, as stored."""
        first, last = self.arrays["object.parts"][row : row + 2].tolist()
        starts, ends, is_code = (
            self.arrays[f"part.{name}"][first:last].tolist() for name in ("starts", "ends", "is_code")
        )
        return tuple(
            self._codes[a:b].tobytes() if code else self._points[a:b]
            for a, b, code in zip(starts, ends, is_code, strict=True)
        )

    def targets(self, row: int) -> list[int]:
        """Rows of the objects whose union is the mask of a reference: all but crowds."""
        first, last = self.arrays["ref.objects"][row : row + 2]
        rows = self.arrays["object_of_ref"][first:last].tolist()
        if not self.facts.get("skips_crowds", True):
            return rows
        return [number for number in rows if not self.arrays["object.crowd"][number]]

    def mask(self, row: int, rule: MaskRule = "union", out: Tensor | None = None) -> Tensor:
        """Bool [H, W], what a reference refers to; all False where it refers to nothing, or its objects cover no pixel.

        It is written into `out` where one is given.
        """
        return draw(self._parts_of(row), self.picture_size(row), rule, out)

    def picture_size(self, row: int) -> Size:
        """(height, width) of the picture of a reference."""
        height, width = self.arrays["picture.size"][self.arrays["ref.picture"][row]].tolist()
        return height, width

    def _parts_of(self, row: int) -> list[Part]:
        return [part for number in self.targets(row) for part in self.parts(number)]

    def count_mask(self, row: int) -> Tensor:
        """Uint8 [H, W], how many parts cover each pixel: the mask of the published REFER API."""
        return draw_count(self._parts_of(row), self.picture_size(row))


@dataclass(slots=True)
class TableBuilder:
    """Collects pictures, objects and references, and lays them out in columns."""

    pictures: list[Picture] = field(default_factory=list)
    objects: list[tuple[Any, ...]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    part_counts: list[int] = field(default_factory=list)
    refs: list[tuple[int, int, int, bool]] = field(default_factory=list)
    ref_objects: list[list[int]] = field(default_factory=list)
    sentence_counts: list[int] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)

    def add_picture(self, picture: Picture) -> int:
        """Its row."""
        self.pictures.append(picture)
        return len(self.pictures) - 1

    def add_object(self, stored: StoredObject) -> int:
        """Its row."""
        self.objects.append(
            (stored.id, stored.category, stored.is_crowd, stored.box, stored.area, stored.is_bare)
        )
        self.parts += stored.parts
        self.part_counts.append(len(stored.parts))
        return len(self.objects) - 1

    def add_reference(
        self,
        number: int,
        *,
        picture: int,
        split: str,
        objects: Sequence[int],
        is_empty: bool,
        sentences: Sequence[Sentence],
    ) -> None:
        """A record; `picture` and `objects` are rows."""
        self.refs.append((number, picture, self.splits.setdefault(split, len(self.splits)), is_empty))
        self.ref_objects.append(list(objects))
        self.sentence_counts.append(len(sentences))
        self.sentences += sentences

    def table(self, facts: dict[str, Any]) -> Table:
        """The columns, with `facts` in their header."""
        ids, categories, crowds, boxes, areas, bare = (
            zip(*self.objects, strict=True) if self.objects else ([],) * 6
        )
        refs = np.array([ref[:3] for ref in self.refs], dtype=np.int64).reshape(-1, 3)
        arrays: dict[str, np.ndarray] = {
            "picture.id": np.array([p.id for p in self.pictures], dtype=np.int64),
            "picture.size": np.array([p.size for p in self.pictures], dtype=np.int32).reshape(-1, 2),
            "object.id": np.array(ids, dtype=np.int64),
            "object.category": np.array(categories, dtype=np.int32),
            "object.crowd": np.array(crowds, dtype=np.uint8),
            "object.box": np.array(boxes, dtype=np.float64).reshape(-1, 4),
            "object.area": np.array(areas, dtype=np.float64),
            "object.bare": np.array(bare, dtype=np.uint8),
            "object.parts": _starts(self.part_counts),
            "ref.id": refs[:, 0],
            "ref.picture": refs[:, 1].astype(np.int32),
            "ref.split": refs[:, 2].astype(np.int32),
            "ref.empty": np.array([ref[3] for ref in self.refs], dtype=np.uint8),
            "ref.objects": _starts([len(rows) for rows in self.ref_objects]),
            "object_of_ref": np.array([row for rows in self.ref_objects for row in rows], dtype=np.int32),
            "ref.sentences": _starts(self.sentence_counts),
            "sentence.id": np.array([s.id for s in self.sentences], dtype=np.int64),
        }
        texts = {
            "picture.file": [p.file for p in self.pictures],
            "raw": [s.raw for s in self.sentences],
            "sent": [s.sent for s in self.sentences],
            # Words are kept only where they are not those of the cleaned text.
            "tokens": [
                "" if list(s.tokens) == s.sent.split() else json.dumps(s.tokens) for s in self.sentences
            ],
        }
        return Table(facts | {"splits": list(self.splits)}, arrays | self._part_arrays(), texts)

    def _part_arrays(self) -> dict[str, np.ndarray]:
        """Polygons and codes lie in arrays of their own; each part knows where it begins and ends in its array."""
        is_code = np.array([isinstance(part, bytes) for part in self.parts], dtype=bool)
        lengths = np.array([len(part) for part in self.parts], dtype=np.int64)
        ends = np.where(is_code, np.cumsum(lengths * is_code), np.cumsum(lengths * ~is_code))
        polygons = [part for part in self.parts if not isinstance(part, bytes)]
        codes = b"".join(part for part in self.parts if isinstance(part, bytes))
        return {
            "part.is_code": is_code.astype(np.uint8),
            "part.starts": ends - lengths,
            "part.ends": ends,
            "points": np.concatenate(polygons) if polygons else np.empty(0),
            "codes": np.frombuffer(codes, dtype=np.uint8),
        }


def _starts(counts: Sequence[int]) -> np.ndarray:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts
