"""Which pictures of a training set are also looked at when results are measured, so that they can be left out.

The COCO families (RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO) draw on the same pictures with different splits; COCO itself and
Visual Genome, of whose pictures about half are COCO's, hold them too. A picture is known by its number in COCO: of published sets from their
annotations, of phrase files from names such as COCO_train2014_000000581857.jpg, of Visual Genome from its `image_data.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refseg.data.catalog import open_dataset
from refseg.data.dataset import COCO, PhraseDataset
from refseg.data.formats.records import read_json
from refseg.errors import InvalidInput

Numbers = Mapping[int, int]
"""Numbers of pictures in COCO by their numbers in Visual Genome."""


@dataclass(frozen=True)
class DatasetPart:
    """Splits of a data set that results are measured on, written "refcoco:val+testA+testB"."""

    name: str
    splits: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> DatasetPart:
        """The part that a text names.

        Raises:
            InvalidInput: if it names no split.
        """
        name, colon, splits = text.rpartition(":")
        if not colon or not name or not all(splits.split("+")):
            raise InvalidInput(
                f"{text!r} names no part of a data set; write name:split or name:split+split, such as refcoco:val+testA+testB"
            )
        return cls(name, tuple(splits.split("+")))

    def __str__(self) -> str:
        return f"{self.name}:{'+'.join(self.splits)}"


@dataclass(frozen=True)
class EvaluationImages:
    """The pictures of one part."""

    part: str
    collection: str
    numbers: frozenset[int]


@dataclass(frozen=True)
class ExclusionReport:
    """What was left out of one training set."""

    data: str
    split: str
    records: int  # references of a published set, examples of a phrase file
    fallen: int  # of them
    pictures: int  # that they showed
    by_part: Mapping[str, int]  # how many of these pictures each part holds; parts may share pictures
    unknown: int = 0  # examples whose picture has no number in COCO

    def __str__(self) -> str:
        told = f"{self.data} {self.split}: {self.fallen} of {self.records} records left out, which show {self.pictures} "
        told += "pictures of " + ", ".join(f"{part} ({count})" for part, count in self.by_part.items())
        return told + (f"; {self.unknown} examples show no picture of COCO by name" if self.unknown else "")


def evaluation_images(parts: Sequence[str], root: Path | None) -> list[EvaluationImages]:
    """The pictures of every part.

    Raises:
        InvalidInput: if a text names no part, or the set's pictures have no numbers.
        UnknownName: if there is no such set or split.
    """
    found = []
    for part in map(DatasetPart.of, parts):
        numbers: set[int] = set()
        collection = COCO
        for split in part.splits:
            opened = open_dataset(part.name, split=split, root=root)
            collection, more = images_of(opened)
            numbers |= more
        found.append(EvaluationImages(str(part), collection, frozenset(numbers)))
    return found


def images_of(examples: PhraseDataset, genome: Numbers | None = None) -> tuple[str, frozenset[int]]:
    """The collection that the pictures of a data set belong to, and their numbers in it.

    Raises:
        InvalidInput: if the set's pictures have no numbers.
    """
    numbers = examples.image_ids(genome)
    if numbers is None or examples.image_collection is None:
        raise InvalidInput(
            f"the pictures of {examples.name} have no numbers by which other data sets know them"
        )
    return examples.image_collection, numbers


def exclude(
    examples: PhraseDataset, held: Sequence[EvaluationImages], *, split: str, genome: Numbers | None = None
) -> tuple[PhraseDataset, ExclusionReport]:
    """The data set without the records that show a held-out picture, and what fell.

    A video data set shares no picture with COCO and stays whole.
    """
    collection = examples.image_collection
    numbers = frozenset().union(*(one.numbers for one in held if one.collection == collection))
    shared = (examples.image_ids(genome) or frozenset()) & numbers
    rest = examples.without_images(numbers, genome=genome)
    by_part = {one.part: len(one.numbers & shared) if one.collection == collection else 0 for one in held}
    counts = (rest.num_records, rest.num_excluded, len(shared))
    return rest.dataset, ExclusionReport(examples.name, split, *counts, by_part, rest.num_unknown)


def count_shared_images(training: Sequence[PhraseDataset], measured: PhraseDataset) -> tuple[int, int]:
    """How many pictures of a published set that is measured on are learnt from, and how many it has; (0, 0) for others."""
    if not measured.numbers_images:
        return 0, 0
    collection, numbers = images_of(measured)
    known = [images_of(one) for one in training if one.numbers_images]
    learnt = frozenset().union(*(own for where, own in known if where == collection))
    return len(numbers & learnt), len(numbers)


def read_genome(path: Path) -> dict[int, int]:
    """Numbers in COCO of Visual Genome's pictures, from its `image_data.json`.

    Raises:
        InvalidInput: if it is no such file.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "image_id" in row for row in rows):
        raise InvalidInput(
            f"{path} is no image_data.json of Visual Genome: a list of records with image_id and coco_id"
        )
    return {int(row["image_id"]): int(row["coco_id"]) for row in rows if row.get("coco_id") is not None}


def overlap(path: Path, held: Sequence[EvaluationImages]) -> tuple[int, list[int]]:
    """How many pictures a file of COCO or Visual Genome lists, and the numbers of those in it that are held out.

    Arguments:
        path: an `instances_*.json` or `captions_*.json` of COCO, or `image_data.json` of Visual Genome; numbers are those
            of the file.

    Raises:
        InvalidInput: if it is neither.
    """
    numbers = frozenset().union(*(one.numbers for one in held if one.collection == COCO))
    rows = read_json(path)
    if isinstance(rows, list):
        genome = read_genome(path)
        return len(rows), sorted(own for own, coco in genome.items() if coco in numbers)
    images = rows.get("images") if isinstance(rows, dict) else None
    if not isinstance(images, list) or not all(
        isinstance(i, dict) and isinstance(i.get("id"), int) for i in images
    ):
        raise InvalidInput(
            f"{path} is neither in the form of COCO (images with an id) nor image_data.json of Visual Genome"
        )
    return len(images), sorted({image["id"] for image in images} & numbers)


def as_record(fallen: Sequence[ExclusionReport], held: Sequence[EvaluationImages]) -> dict[str, Any]:
    """What is stored beside a run."""
    return {
        "held_out": {one.part: {"collection": one.collection, "pictures": len(one.numbers)} for one in held},
        "training": [asdict(one) for one in fallen],
    }
