"""Pictures with references as a data set: REFER, gRefCOCO, the per-sentence COCO form, the parquet forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import (
    COCO,
    IAPR,
    Annotation,
    PhraseDataset,
    ReadOptions,
    Remaining,
    error_context,
    squeeze,
)
from refseg.data.formats.phrase_line import words_of
from refseg.data.formats.reference_table import ReferenceTable
from refseg.data.frame_sampling import pick_frames
from refseg.data.published import ALIASES, PUBLISHED
from refseg.data.readers.coco_style import clipped_boxes, training_parts
from refseg.data.readers.phrase_file import MOST_PHRASES
from refseg.errors import InvalidInput
from refseg.media.images import read_stored_image
from refseg.structures import Example, Outline, Size


class PictureStore(Protocol):
    """Where the pictures of a data set are."""

    def path(self, file: str) -> Path:
        """The place of a picture; it need not exist."""

    def read(self, file: str) -> Tensor:
        """[1, 3, H, W] uint8."""


class PictureFolders:
    """Pictures in the first of several folders that has them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder for folder in folders if folder.is_dir()] or list(folders[:1])
        self._asked = tuple(folders)

    def path(self, file: str) -> Path:
        """The first place where the picture stands; the place in the first folder where none does."""
        places = [folder / file for folder in self.folders]
        return next((place for place in places if place.exists()), places[0])

    def read(self, file: str) -> Tensor:
        """[1, 3, H, W] uint8.

        Raises:
            InvalidInput: if it is missing or damaged.
        """
        path = self.path(file)
        if not path.exists():
            asked = ", ".join(map(str, self._asked))
            raise InvalidInput(
                f"the picture {file} is in none of the folders {asked}; download the pictures, or give `images`"
            )
        return read_stored_image(path)


class ReferenceImages(PhraseDataset):
    """The references of a split as examples; pictures are opened and masks drawn when their example is asked for.

    Examples and their phrases keep the order of the file: records, then sentences. With `item="clip"` the phrases of a picture stand
    together where the picture first appears, at most 64 in one example.

    Args:
        name: what tables call the data set.
        table: its references.
        store: where its pictures are.
        split: as `ReferenceTable.query` reads it; None is every record.
        options: how to read.
        rows: only these references; None is all of the split.
        count: at most so many examples.

    Raises:
        UnknownName, InvalidInput: if the split is unknown or holds nothing.
    """

    has_options = has_mask_rules = numbers_images = True

    def __init__(
        self,
        name: str,
        table: ReferenceTable,
        store: PictureStore,
        *,
        split: str | None,
        options: ReadOptions,
        rows: np.ndarray | None = None,
        count: int | None = None,
    ) -> None:
        self.name, self.table, self.store = name, table, store
        self.split, self.options = split, options
        self.rows = table.query(split) if rows is None else rows
        if rows is None and not len(self.rows):
            raise InvalidInput(
                f"no record of {name} is in the split {split!r}; its splits are {', '.join(table.splits) or 'none'}"
            )
        self.num_left_out: int = table.facts["skipped"][0]  # records of all splits that could not be used
        self.category_ids = tuple(table.categories)  # as stored; a label is a place in these
        self.categories = tuple(table.categories.values())
        self._pairs, self._starts = _items(table, self.rows, options.item)
        if count is not None:
            self._starts = self._starts[: count + 1]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return int(self._starts[-1])

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the phrases."""
        words: set[str] = set()
        for row in self._pairs[: self._starts[-1], 1].tolist():
            words.update(words_of(self._text(row)))
        return tuple(sorted(words))

    def phrases_of(self, row: int) -> tuple[str, ...]:
        """The phrases of a reference, by its row."""
        return tuple(self._text(sentence) for sentence in self.table.sentence_rows(row))

    def pairs(self, index: int) -> list[tuple[int, int]]:
        """Rows of the reference and of the sentence of every phrase of an example."""
        first, last = self._starts[index], self._starts[index + 1]
        return [(ref, sentence) for ref, sentence in self._pairs[first:last].tolist()]

    def annotation(self, index: int) -> Annotation:
        """What is known of example `index` without its picture."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        pairs = self.pairs(index)
        references = {row: self.table.reference(row) for row, _ in pairs}
        picture = references[pairs[0][0]].picture
        return Annotation(
            name=picture.file,
            paths=(self.store.path(picture.file),),
            frames=(picture.file,),
            size=picture.size,
            phrases=tuple(self._text(sentence) for _, sentence in pairs),
            ids=tuple(str(self.table.arrays["sentence.id"][sentence]) for _, sentence in pairs),
            objects=tuple(str(references[row].id) for row, _ in pairs),
            no_target=tuple(references[row].has_no_target for row, _ in pairs),
            labels=tuple(
                self._label(references[row].objects[0].category) if references[row].objects else -1
                for row, _ in pairs
            ),
        )

    def size(self, index: int) -> Size:
        """(height, width) of the picture of example `index`, as annotated."""
        return self.table.picture_size(int(self._pairs[self._starts[index], 0]))

    def masks(
        self, index: int, *, rows: Sequence[int] | None = None, frames: Sequence[int] | None = None
    ) -> Tensor:
        """[P, 1, H, W] bool of example `index`; needs no picture."""
        del frames  # an image has one
        pairs = self.pairs(index)
        pairs = pairs if rows is None else [pairs[row] for row in rows]
        height, width = self.table.picture_size(pairs[0][0])
        masks = torch.empty(len(pairs), 1, height, width, dtype=torch.bool)
        drawn: dict[int, int] = {}
        for place, (row, _) in enumerate(pairs):
            first = drawn.setdefault(row, place)
            if first == place:
                self.table.mask(row, self.options.masks, out=masks[place, 0])
            else:
                masks[place] = masks[first]
        return masks

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index`; `frames` may repeat its only one.

        Raises:
            InvalidInput: if its picture is missing, damaged, or of another size than annotated; names the record.
        """
        example = self._read(index)
        return example if frames is None else pick_frames(example, frames)

    def _read(self, index: int) -> Example:
        known = self.annotation(index)
        with error_context(f"{self.name} reference {known.objects[0]}"):
            frames = self.store.read(known.name)
            _check_size(known.name, (frames.shape[-2], frames.shape[-1]), known.size)
        return Example(
            name=known.name,
            frames=frames,
            phrases=known.phrases,
            masks=self.masks(index),
            labels=torch.tensor(known.labels),
            ids=known.ids,
            objects=known.objects,
            no_target=torch.tensor(known.no_target),
            frame_names=known.frames,
            boxes=self._boxes(index) if self.options.boxes == "annotated" else None,
            outlines=self._outlines(index) if self.options.outlines else None,
        )

    def _boxes(self, index: int) -> Tensor | None:
        """Annotated boxes [P, 1, 4] xyxy, clipped to the picture; None where a reference is no single object."""
        pairs = self.pairs(index)
        targets = [self.table.targets(row) for row, _ in pairs]
        if any(len(rows) != 1 for rows in targets):
            return None
        objects = [self.table.object(rows[0]) for rows in targets]
        return torch.from_numpy(clipped_boxes(objects, self.table.picture_size(pairs[0][0]))[0])[:, None]

    def _outlines(self, index: int) -> tuple[tuple[Outline | None], ...]:
        """The polygons of every phrase's mask; None where a part of it is a run-length code."""
        rows = [self.table.targets(row) for row, _ in self.pairs(index)]
        return tuple((self._outline(row),) for row in rows)

    def _outline(self, rows: Sequence[int]) -> Outline | None:
        parts = [part for row in rows for part in training_parts(self.table.object(row))]
        if not parts or any(isinstance(part, bytes) for part in parts):
            return None
        return tuple(torch.from_numpy(np.array(part, dtype=np.float64)).reshape(-1, 2) for part in parts)

    def annotated_boxes(self, index: int) -> list[list[float] | None]:
        """The stored box (xyxy in source pixels) of each phrase; None where there is none, or several objects."""
        boxes: list[list[float] | None] = []
        for row, _ in self.pairs(index):
            objects = self.table.reference(row).objects
            x, y, width, height = objects[0].box if len(objects) == 1 else (math.nan,) * 4
            boxes.append(None if math.isnan(x) else [x, y, x + width, y + height])
        return boxes

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of its annotation files by name."""
        return {source["name"]: source["sha256"] for source in self.table.columns.facts["sources"]}

    def fingerprint(self) -> dict[str, Any]:
        """As of every dataset, with the key of the index, which stands for files and form together."""
        return super().fingerprint() | {"index": self.table.columns.facts["key"]}

    @property
    def image_collection(self) -> str:  # type: ignore[override]
        """The collection that numbers the images; forms that only folders name are COCO's."""
        facts = PUBLISHED.get(ALIASES.get(self.name, self.name))
        is_iapr = facts is not None and any("saiapr" in folder for folder in facts.image_folders)
        return IAPR if is_iapr else COCO

    def image_ids(self, genome: Mapping[int, int] | None = None) -> frozenset[int]:
        """The numbers of the images, such as COCO gives them: sets that share one show the same image."""
        del genome
        rows = np.unique(self.table.arrays["ref.picture"][self.rows])
        return frozenset(self.table.arrays["picture.id"][rows].tolist())

    def without_images(
        self, numbers: frozenset[int], *, genome: Mapping[int, int] | None = None
    ) -> Remaining:
        """The same dataset without the references to some images."""
        del genome
        of_row = self.table.arrays["picture.id"][self.table.arrays["ref.picture"][self.rows]]
        kept = self.rows[~np.isin(of_row, list(numbers))]
        smaller = ReferenceImages(
            self.name, self.table, self.store, split=self.split, options=self.options, rows=kept
        )
        return Remaining(smaller, len(self.rows), len(self.rows) - len(kept))

    def _text(self, row: int) -> str:
        kind = self.options.text or "sent"
        text = self.table.text(row, "raw" if kind == "raw" else "sent")
        return squeeze(text) if kind == "squeezed" else text

    def _label(self, category: int) -> int:
        return self.category_ids.index(category) if category in self.category_ids else -1


def _check_size(file: str, size: Size, annotated: Size | None) -> None:
    if annotated is not None and size != annotated:
        raise InvalidInput(
            f"the picture {file} is {size[1]}x{size[0]} pixels, and was annotated at {annotated[1]}x{annotated[0]}; "
            "get the picture of the data set in its own size"
        )


def _items(table: ReferenceTable, rows: np.ndarray, item: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of reference and sentence [N, 2] in the order of examples, and where each example starts [E + 1]."""
    sentences = table.arrays["ref.sentences"]
    counts = sentences[rows + 1] - sentences[rows]
    refs = np.repeat(rows, counts)
    pairs = np.stack([refs, _counted_up(counts) + np.repeat(sentences[rows], counts)], axis=1)
    if item == "phrase":
        return pairs, np.arange(len(pairs) + 1)
    if item == "object":
        return pairs, _edges(refs)
    pictures = table.arrays["ref.picture"][refs]
    _, appeared, number = np.unique(pictures, return_index=True, return_inverse=True)
    order = np.argsort(
        appeared[number], kind="stable"
    )  # pictures by first appearance, phrases in order of the file
    grouped = pictures[order]
    chunk = _counted_up(np.diff(_edges(grouped))) // MOST_PHRASES
    return pairs[order], _edges(grouped.astype(np.int64) * (len(pairs) + 1) + chunk)


def _counted_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of several runs."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _edges(keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys start, and the end."""
    if not len(keys):
        return np.zeros(1, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(keys)) + 1, [len(keys)]])
