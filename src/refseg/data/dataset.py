"""The contract of a dataset: what is known before an image is opened, how it is read, and what every reader gives."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from refseg.data.formats.masks import MaskRule
from refseg.data.formats.phrase_line import words_of
from refseg.data.provenance import hash_file
from refseg.errors import InvalidInput, UnknownName
from refseg.media.images import image_size
from refseg.structures import Example, Size

COCO, IAPR = "COCO", "IAPR TC-12"  # collections of images that number them

Text = Literal["raw", "sent", "squeezed"]
Item = Literal["clip", "object", "phrase"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a published data set is read; the defaults are those of the toolkit, not of one publication."""

    text: Text | None = None
    """REFER and gRefCOCO keep two texts of a phrase: "raw" as typed (LAVT, LGFormer, ReLA) and "sent" as cleaned (ReferFormer,
    VLFormer, VLT, VPD). "squeezed" is the text in lower case with single blanks (the video loaders). None: the set's own."""
    masks: MaskRule = "union"
    """"exactly-one" makes pixels under two parts of an object background, as LAVT, LGFormer and VPD do."""
    item: Item = "clip"
    """What an example holds: all phrases of a picture or video; those of one object or record (LAVT's epochs); or one."""
    images: Path | None = None
    """The folder of pictures, where it is none of those that the published codes use."""
    boxes: Literal["masks", "annotated"] = "masks"
    """Which boxes an example of REFER or the COCO form brings: none, so that those of its masks are taken; or the annotated ones,
    clipped to the picture, as ReferFormer learns from."""
    outlines: bool = False
    """Whether it brings the polygons of its masks, for augmentation that moves polygons and draws them afterwards (VLFormer)."""
    bad_records: Literal["refuse", "skip"] = "refuse"
    """Whether a record of an annotation file that cannot be used ends the opening, or is left out, counted and told. Ref-DAVIS17 as
    published and VLFormer's video files refuse to skip: their records lean on one another."""
    window: int = 5
    """A2D and JHMDB: how many frames around the annotated one."""

    def __post_init__(self) -> None:
        _one_of("text", self.text, (None, "raw", "sent", "squeezed"))
        _one_of("masks", self.masks, ("union", "exactly-one"))
        _one_of("boxes", self.boxes, ("masks", "annotated"))
        _one_of("outlines", self.outlines, (False, True))
        _one_of("bad_records", self.bad_records, ("refuse", "skip"))
        _one_of("item", self.item, ("clip", "object", "phrase"))
        if self.window < 1:
            raise InvalidInput(f"the window is {self.window} frames; it holds 1 or more")

    @classmethod
    def of(cls, values: dict[str, Any]) -> ReadOptions:
        """Options by name, as a recipe or the command line gives them.

        Raises:
            UnknownName: if there is no such option.
        """
        known = [option.name for option in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownName("option of a data set", name, known)
        images = values.get("images")
        return cls(**(values | ({"images": Path(images)} if images is not None else {})))


@dataclass(frozen=True, slots=True)
class Annotation:
    """One picture or clip with its phrases, as annotated; P phrases, T frames."""

    name: str  # of the picture's file, or of the video
    paths: tuple[Path, ...]  # T; whether they are there is seen when they are opened
    frames: tuple[str, ...]  # T names, as evaluation servers spell them
    size: Size | None  # None where only the pictures know
    phrases: tuple[str, ...]  # P
    ids: tuple[str, ...]  # P: sentence, expression or sample, as the data set numbers it
    objects: tuple[str, ...]  # P: reference or object, as the data set numbers it
    no_target: tuple[bool, ...]  # P
    labels: tuple[int, ...]  # P: place in the data set's `categories`; -1 = none
    target_frames: tuple[int, ...] | None = None  # places of the annotated frames; None = all
    registers: tuple[str, ...] | None = None


def squeeze(phrase: str) -> str:
    """A phrase in lower case with single blanks between words."""
    return " ".join(phrase.lower().split())


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Refusals inside the block are told with the record that they belong to."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise UnknownName(
            f"value of the option {name}", str(value), [str(v) for v in allowed if v is not None]
        )


@dataclass(frozen=True)
class Timeline:
    """The frames of one clip as stored."""

    length: int
    annotated: tuple[int, ...] | None = None  # frames with masks; None = all


@dataclass(frozen=True, slots=True)
class TrueObjects:
    """What the evaluator of DAVIS reads of a video."""

    masks: Tensor  # [N, T, H, W] bool; N = largest number but 255 in the first frame
    void: Tensor  # [T, H, W] bool


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a dataset without some images, and how it was counted."""

    dataset: PhraseDataset
    num_records: int  # references of a published set, examples of a phrase file
    num_excluded: int  # of them
    num_unknown: int = 0  # examples whose image has no number


class PhraseDataset(torch.utils.data.Dataset[Example], ABC):
    """Annotated clips, one at a time: the contract of every dataset.

    A reader gives `__len__`, `annotation` and `example`; everything else has a default that a reader with something better to
    say overrides. Examples depend on their index alone. Datasets are cheap to send to another process.
    """

    name: str  # what tables call it
    split: str | None = None
    options: ReadOptions = ReadOptions()
    categories: tuple[str, ...] = ()  # `labels` are places in these
    num_left_out: int = 0  # records that could not be used, where they are not refused

    # Claims; what they promise is said by the methods that they are about.
    has_options: bool = False  # `with_options` changes how it is read
    reads_frames_alone: bool = False  # `example(index, frames)` reads these frames and no others
    reads_masks_alone: bool = False  # `masks(index, rows=...)` reads these and no others
    has_mask_rules: bool = False  # parts of an object may overlap, and `options.masks` says what that means
    is_windowed: bool = (
        False  # single frames are annotated, and `options.window` frames around one are an example
    )
    is_video_set: bool = False  # whole videos, of which evaluation compares every frame
    is_endless: bool = False  # drawn, not stored: it has neither sizes nor epochs
    numbers_images: bool = False  # its annotations number the images, so that other sets know them
    image_collection: str | None = None  # the collection that numbers its images, COCO for one

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def annotation(self, index: int) -> Annotation:
        """All that is known of example `index` before an image is opened."""

    @abstractmethod
    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with these frames, in this order, repeats included; None is all frames.

        `target_frames` are the places of frames with masks, each at its first; None where every frame has masks.

        Raises:
            InvalidInput: if an image or a mask is missing or damaged; names the record.
        """

    def __getitem__(self, index: int) -> Example:
        return self.example(index)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of its phrases, sorted, lower-case."""
        phrases = (phrase for index in range(len(self)) for phrase in self.annotation(index).phrases)
        return tuple(sorted({word for phrase in phrases for word in words_of(phrase)}))

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples; no image is opened."""
        return sum(len(self.annotation(index).phrases) for index in range(len(self)))

    def timeline(self, index: int) -> Timeline:
        """How many frames example `index` has, and which of them have masks; no image is opened."""
        known = self.annotation(index)
        return Timeline(len(known.frames), known.target_frames)

    def size(self, index: int) -> Size:
        """(height, width) of the frames of example `index`.

        Raises:
            InvalidInput: if the header of its first image cannot be read.
        """
        known = self.annotation(index)
        return known.size or image_size(known.paths[0])

    def masks(
        self, index: int, *, rows: Sequence[int] | None = None, frames: Sequence[int] | None = None
    ) -> Tensor | None:
        """[P, T, H, W] bool of some phrases of example `index` in some frames; None where a server keeps the masks.

        Where `target_frames` names the frames that have masks, T counts these.
        """
        masks = self.example(index, frames).masks
        return masks if masks is None or rows is None else masks[list(rows)]

    def annotated_boxes(self, index: int) -> list[list[float] | None]:
        """The stored box (xyxy in source pixels) of each phrase; None for several objects. Empty: it stores no boxes."""
        del index
        return []

    def true_objects(self, index: int) -> TrueObjects | None:
        """Which pixels are which object of a video; None where the dataset does not tell."""
        del index
        return None

    def image_ids(self, genome: Mapping[int, int] | None = None) -> frozenset[int] | None:
        """The numbers of its images in `image_collection`; None where they have none.

        `genome` gives numbers in COCO by those in Visual Genome.
        """
        del genome
        return None

    def without_images(
        self, numbers: frozenset[int], *, genome: Mapping[int, int] | None = None
    ) -> Remaining:
        """The dataset without the images of these numbers; itself where its images have no numbers."""
        del numbers, genome
        return Remaining(self, len(self), 0)

    def with_options(self, **changes: Any) -> PhraseDataset:
        """The same dataset read in another way; itself where it takes no options.

        Raises:
            UnknownName: if an option has no such value.
        """
        if not self.has_options:
            return self
        other = copy.copy(self)
        other.options = replace(self.options, **changes)
        other.__dict__.pop("vocabulary", None)
        return other

    def describe(self) -> dict[str, Any]:
        """What is needed to read the very same examples again, as plain data."""
        told = {"name": self.name, "split": self.split, "count": len(self)}
        if not self.has_options:
            return told
        options = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(self.options).items()}
        left_out = {"left_out": self.num_left_out} if self.num_left_out else {}
        return told | {"options": options, "sources": self.source_hashes()} | left_out

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of its annotation files by name, where an index knows them."""
        return {}

    def annotation_files(self) -> Iterator[tuple[str, Path]]:
        """Further annotation files that `fingerprint` hashes, each with its name below the dataset's folder."""
        yield from ()

    def fingerprint(self) -> dict[str, Any]:
        """What a result rests on: `describe`, the number of phrases and the SHA-256 of every annotation file that was read."""
        told = self.describe() | {"phrases": self.num_phrases}
        read = {name: hash_file(path) for name, path in self.annotation_files()}
        return told | {"sources": told.get("sources", {}) | read}


_ANNOTATIONS = (
    "meta_expressions/{split}/meta_expressions.json",
    "meta_expressions/test/meta_expressions.json",  # says which videos of valid are left out
    "{split}/meta_expressions.json",
    "{split}/meta.json",
    "davis_text_annotations/*.txt",
    "DAVIS/ImageSets/2017/*.txt",
    "text_annotations/*.txt",
    "Release/videoset.csv",
    "jhmdb_sentences_samples_metadata.json",
)


def annotation_files_below(folder: Path, split: str | None) -> Iterator[tuple[str, Path]]:
    """The files of a dataset of videos that say what is asked, with their names below its folder; those that are there."""
    for pattern in _ANNOTATIONS:
        for path in sorted(folder.glob(pattern.format(split=split))):
            yield path.relative_to(folder).as_posix(), path


class Subset(PhraseDataset):
    """Some examples of a dataset, in the order of `numbers`."""

    def __init__(self, examples: PhraseDataset, numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers
        self.name, self.image_collection = examples.name, examples.image_collection
        self.options, self.categories = examples.options, examples.categories
        self.reads_frames_alone = examples.reads_frames_alone

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the whole dataset, so that a model reads the same words whatever is left out."""
        return self.examples.vocabulary

    def annotation(self, index: int) -> Annotation:
        """All that is known of an example before an image is opened."""
        return self.examples.annotation(self.numbers[index])

    def timeline(self, index: int) -> Timeline:
        """How many frames an example has."""
        return self.examples.timeline(self.numbers[index])

    def size(self, index: int) -> Size:
        """(height, width) of the frames of an example."""
        return self.examples.size(self.numbers[index])

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with some of its frames."""
        return self.examples.example(self.numbers[index], frames)

    def fingerprint(self) -> dict[str, Any]:
        """That of the whole dataset, and what was kept: the number of examples and the SHA-256 of their numbers."""
        numbers = np.asarray(self.numbers, dtype=np.int64)
        kept = {"examples": len(numbers), "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
        return self.examples.fingerprint() | {"phrases": self.num_phrases, "kept": kept}
