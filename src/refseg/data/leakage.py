"""Which pictures of a training set are also looked at when results are measured, so that they can be left out.

The COCO families (RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO) draw on the same pictures with different splits; COCO itself and
Visual Genome, of whose pictures about half are COCO's, hold them too. A picture is known by its number in COCO: of published sets from their
annotations, of phrase files from names such as COCO_train2014_000000581857.jpg, of Visual Genome from its `image_data.json`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refseg.data.catalog import open_dataset
from refseg.data.dataset import PhraseDataset, Timeline
from refseg.data.formats.records import read_json
from refseg.data.published import ALIASES, PUBLISHED
from refseg.data.readers.image_set import ReferenceImages
from refseg.data.readers.phrase_file import PhraseFile
from refseg.errors import InvalidInput
from refseg.structures import Example, Size

COCO, IAPR = "COCO", "IAPR TC-12"  # collections of pictures that number them

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?\.(?:jpe?g|png)", re.IGNORECASE)
_NUMBER_NAME = re.compile(r"(\d+)\.(?:jpe?g|png)", re.IGNORECASE)  # Visual Genome

Numbers = Mapping[int, int]
"""Numbers of pictures in COCO by their numbers in Visual Genome."""


@dataclass(frozen=True)
class Part:
    """Splits of a data set that results are measured on, written "refcoco:val+testA+testB"."""

    name: str
    splits: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Part:
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
class HeldOut:
    """The pictures of one part."""

    part: str
    collection: str
    numbers: frozenset[int]


@dataclass(frozen=True)
class Fallen:
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


class Subset:
    """Some examples of a phrase file, in its order."""

    def __init__(self, examples: PhraseFile, numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers
        self.name, self.vocabulary = examples.name, examples.vocabulary

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Example:
        return self.examples[self.numbers[index]]

    @property
    def num_phrases(self) -> int:
        """Phrases of these examples."""
        return sum(map(self.examples.num_phrases_of, self.numbers))

    def timeline(self, index: int) -> Timeline:
        """How many frames example `index` has."""
        return self.examples.timeline(self.numbers[index])

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with some of its frames."""
        return self.examples.example(self.numbers[index], frames)

    def size(self, index: int) -> Size:
        """(height, width) of the frames of example `index`."""
        return self.examples.size(self.numbers[index])


def held_out(parts: Sequence[str], root: Path | None) -> list[HeldOut]:
    """The pictures of every part.

    Raises:
        InvalidInput: if a text names no part, or the set's pictures have no numbers.
        UnknownName: if there is no such set or split.
    """
    found = []
    for part in map(Part.of, parts):
        numbers: set[int] = set()
        collection = COCO
        for split in part.splits:
            opened = open_dataset(part.name, split=split, root=root)
            collection, more = pictures_of(opened)
            numbers |= more
        found.append(HeldOut(str(part), collection, frozenset(numbers)))
    return found


def pictures_of(examples: PhraseDataset, genome: Numbers | None = None) -> tuple[str, frozenset[int]]:
    """The collection that the pictures of a data set belong to, and their numbers in it.

    Raises:
        InvalidInput: if the set's pictures have no numbers.
    """
    if isinstance(examples, ReferenceImages):
        return _collection(examples.name), examples.picture_ids
    if isinstance(examples, PhraseFile):
        return COCO, frozenset(n for n in _numbers_of(examples, genome) if n is not None)
    raise InvalidInput(f"the pictures of {examples.name} have no numbers by which other data sets know them")


def leave_out(
    examples: PhraseDataset, held: Sequence[HeldOut], *, split: str, genome: Numbers | None = None
) -> tuple[PhraseDataset, Fallen]:
    """The data set without the records that show a held-out picture, and what fell.

    A video data set shares no picture with COCO and stays whole.
    """
    if isinstance(examples, ReferenceImages):
        return _without_references(examples, held, split)
    if isinstance(examples, PhraseFile):
        return _without_lines(examples, held, split, genome)
    parts = {one.part: 0 for one in held}
    return examples, Fallen(examples.name, split, len(examples), 0, 0, parts)


def shared_pictures(training: Sequence[PhraseDataset], measured: PhraseDataset) -> tuple[int, int]:
    """How many pictures of a published set that is measured on are learnt from, and how many it has; (0, 0) for others."""
    if not isinstance(measured, ReferenceImages):
        return 0, 0
    collection, numbers = _collection(measured.name), measured.picture_ids
    known = [
        one for one in training if isinstance(one, ReferenceImages) and _collection(one.name) == collection
    ]
    return len(numbers & frozenset().union(*(one.picture_ids for one in known))), len(numbers)


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


def overlap(path: Path, held: Sequence[HeldOut]) -> tuple[int, list[int]]:
    """How many pictures a file of COCO or Visual Genome lists, and the numbers of those in it that are held out.

    Arguments:
        path: an `instances_*.json` or `captions_*.json` of COCO, or `image_data.json` of Visual Genome; numbers are those
            of the file.

    Raises:
        InvalidInput: if it is neither.
    """
    numbers = _coco(held)
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


def as_record(fallen: Sequence[Fallen], held: Sequence[HeldOut]) -> dict[str, Any]:
    """What is stored beside a run."""
    return {
        "held_out": {one.part: {"collection": one.collection, "pictures": len(one.numbers)} for one in held},
        "training": [asdict(one) for one in fallen],
    }


def _without_references(
    examples: ReferenceImages, held: Sequence[HeldOut], split: str
) -> tuple[PhraseDataset, Fallen]:
    own = [one for one in held if one.collection == _collection(examples.name)]
    numbers = frozenset().union(*(one.numbers for one in own))
    shared = examples.picture_ids & numbers
    kept, fell = examples.without_pictures(numbers)
    by_part = _by_part(shared, held, _collection(examples.name))
    return kept, Fallen(examples.name, split, len(examples.rows), fell, len(shared), by_part)


def _without_lines(
    examples: PhraseFile, held: Sequence[HeldOut], split: str, genome: Numbers | None
) -> tuple[PhraseDataset, Fallen]:
    of_example, numbers = list(_numbers_of(examples, genome)), _coco(held)
    kept = [index for index, number in enumerate(of_example) if number not in numbers]
    shared = {number for number in of_example if number is not None} & numbers
    fallen = Fallen(
        examples.name,
        split,
        len(examples),
        len(examples) - len(kept),
        len(shared),
        _by_part(shared, held, COCO),
        unknown=sum(number is None for number in of_example),
    )
    return (examples if len(kept) == len(examples) else Subset(examples, kept)), fallen


def _numbers_of(examples: PhraseFile, genome: Numbers | None) -> Iterator[int | None]:
    for index in range(len(examples)):
        name = Path(examples.picture(index)).name
        if genome is not None and (told := _NUMBER_NAME.fullmatch(name)) and len(told[1]) < 12:
            yield genome.get(int(told[1]))
            continue
        told = _COCO_NAME.fullmatch(name)
        yield int(told[1]) if told else None


def _coco(held: Sequence[HeldOut]) -> frozenset[int]:
    return frozenset().union(*(one.numbers for one in held if one.collection == COCO))


def _by_part(shared: Collection[int], held: Sequence[HeldOut], collection: str) -> dict[str, int]:
    return {one.part: len(one.numbers & set(shared)) if one.collection == collection else 0 for one in held}


def _collection(name: str) -> str:
    """The collection of pictures of a published set; forms that only folders name are COCO's."""
    facts = PUBLISHED.get(ALIASES.get(name, name))
    is_iapr = facts is not None and any("saiapr" in folder for folder in facts.image_folders)
    return IAPR if is_iapr else COCO
