"""What a published data set says of one picture or clip before any picture is opened, and how it is to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from refseg.data.formats.masks import MaskRule
from refseg.errors import InvalidInput, UnknownName
from refseg.structures import Example, Size

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


def squeezed(phrase: str) -> str:
    """A phrase in lower case with single blanks between words."""
    return " ".join(phrase.lower().split())


@contextmanager
def told_with(where: str) -> Iterator[None]:
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


@runtime_checkable
class FrameDataset(Protocol):
    """A data set of long clips, of which a few frames are read at a time."""

    def timeline(self, index: int) -> Timeline:
        """What example `index` has, told without reading a picture."""

    def example(self, index: int, frames: Sequence[int]) -> Example:
        """Example `index` with these frames, in this order, repeats included.

        `target_frames` are the places of frames with masks, each at its first; None where every frame has masks.
        """


class PhraseDataset(Protocol):
    """Annotated clips, one at a time; every data set is one of these."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of its phrases, sorted, lower-case."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example of an index; it depends on the index alone."""
