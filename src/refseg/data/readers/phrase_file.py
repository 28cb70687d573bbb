"""A file in the open form as a data set: phrases of one picture or clip together, masks drawn when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import COCO, Annotation, PhraseDataset, Remaining, Subset, Timeline
from refseg.data.formats.phrase_line import PhraseLine, line_context, parse_line, words_of
from refseg.data.provenance import hash_file
from refseg.errors import InvalidInput, UnknownName
from refseg.media.images import image_size, read_image
from refseg.structures import Example, Size

MOST_PHRASES = 64
"""Phrases of one example; a picture with more becomes several examples, so that masks stay within memory."""

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?\.(?:jpe?g|png)", re.IGNORECASE)
_NUMBER_NAME = re.compile(r"(\d+)\.(?:jpe?g|png)", re.IGNORECASE)  # Visual Genome


class PhraseFile(PhraseDataset):
    """The examples of a phrase file, in the order in which their pictures first appear.

    Opening reads and checks every line and looks whether the files are there; pictures and masks are read with their
    example. Lines about the same frames become one example with several phrases. Only places in the file are kept.

    Args:
        path: the `.jsonl` file.
        split: only lines of this split; None is all lines. Where no line names a split, the file is one split if its name
            says so ("val.jsonl", "dogs-val.jsonl").
        count: at most so many examples.
        root: the folder that paths start from; None is the folder of the file.

    Raises:
        InvalidInput: if the file cannot be read or a line is wrong; the message names the line.
        UnknownName: if lines name splits, and none is `split`.
    """

    image_collection = COCO

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        count: int | None = None,
        root: Path | None = None,
    ) -> None:
        self.path, self.split = Path(path), split
        self.root = Path(root) if root is not None else self.path.parent
        self._stamp = _stamp(self.path)
        survey = _survey(self.path, self.root)
        self.name = self.path.name
        self.categories = tuple(sorted(survey.categories))  # `labels` are indices into these; -1 = none named
        kept = survey.of_split(self.path, split)
        self._words = tuple(sorted(set().union(*(survey.words[name] for name in kept))))
        self._places = _chunks(
            survey.groups_of(kept), count
        )  # of each example: [P, 2] line number, offset in bytes

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return sum(map(len, self._places))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the phrases."""
        return self._words

    def annotation(self, index: int) -> Annotation:
        """What the lines of example `index` say; no image is opened."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        lines = self._lines(self._places[index].tolist())
        labels = self._labels(lines)
        return Annotation(
            name=lines[0].frames[0],
            paths=tuple(self.root / frame for frame in lines[0].frames),
            frames=lines[0].frames,
            size=None,
            phrases=tuple(line.phrase for line in lines),
            ids=tuple(line.id or "" for line in lines),
            objects=("",) * len(lines),
            no_target=tuple(line.masks is None for line in lines),
            labels=(-1,) * len(lines) if labels is None else tuple(labels.tolist()),
            registers=tuple(line.register or "" for line in lines),
        )

    def describe(self) -> dict[str, Any]:
        """The name and the SHA-256 of the file, and which part of it is read."""
        return {"name": self.name, "split": self.split, "count": len(self), "sha256": self.sha256()}

    def fingerprint(self) -> dict[str, Any]:
        """`describe` with the number of phrases; the hash of the file stands in it."""
        return self.describe() | {"phrases": self.num_phrases}

    def image_ids(self, genome: Mapping[int, int] | None = None) -> frozenset[int]:
        """Numbers in COCO, from names such as COCO_train2014_000000581857.jpg; `genome` as in the contract."""
        return frozenset(number for number in self._image_numbers(genome) if number is not None)

    def without_images(
        self, numbers: frozenset[int], *, genome: Mapping[int, int] | None = None
    ) -> Remaining:
        """The examples that show none of these images of COCO."""
        of_example = list(self._image_numbers(genome))
        kept = [index for index, number in enumerate(of_example) if number not in numbers]
        unknown = sum(number is None for number in of_example)
        rest = self if len(kept) == len(self) else Subset(self, kept)
        return Remaining(rest, len(self), len(self) - len(kept), unknown)

    def _image_numbers(self, genome: Mapping[int, int] | None) -> Iterator[int | None]:
        for index in range(len(self)):
            name = Path(self.picture(index)).name
            if genome is not None and (told := _NUMBER_NAME.fullmatch(name)) and len(told[1]) < 12:
                yield genome.get(int(told[1]))
                continue
            told = _COCO_NAME.fullmatch(name)
            yield int(told[1]) if told else None

    def timeline(self, index: int) -> Timeline:
        """How many frames example `index` has, told without opening one."""
        return Timeline(len(self._lines(self._places[index][:1].tolist())[0].frames))

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with some of its frames; one may stand there several times.

        An empty mask is a phrase that nothing answers to.

        Raises:
            InvalidInput: if an image or a mask cannot be read, or the file has changed since it was opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        places = self._places[index].tolist()
        lines = self._lines(places)
        chosen = list(range(len(lines[0].frames)) if frames is None else frames)
        with line_context(self.path, places[0][0]):
            pixels = read_frames(self.root, [lines[0].frames[number] for number in chosen])
        masks = torch.empty(len(lines), *pixels[:, 0].shape, dtype=torch.bool)
        for row, line, (number, _) in zip(masks, lines, places, strict=True):
            with line_context(self.path, number):
                row.copy_(line.read_masks(self.root, (pixels.shape[-2], pixels.shape[-1]), frames))
        return Example(
            name=lines[0].frames[0],
            frames=pixels,
            phrases=tuple(line.phrase for line in lines),
            masks=masks,
            labels=self._labels(lines),
            outlines=tuple(tuple(line.outlines()[number] for number in chosen) for line in lines),
            registers=tuple(line.register or "" for line in lines)
            if any(line.register for line in lines)
            else None,
        )

    def picture(self, index: int) -> str:
        """The path of the picture of example `index`, or of the first frame of its clip; no picture is opened."""
        return self._lines(self._places[index][:1].tolist())[0].frames[0]

    def size(self, index: int) -> Size:
        """(height, width) of the frames of example `index`, from the header of the first.

        Raises:
            InvalidInput: if it is missing or no picture.
        """
        return image_size(self.root / self.picture(index))

    def sha256(self) -> str:
        """Of the file; pictures are not part of it."""
        return hash_file(self.path)

    def _lines(self, places: Sequence[Sequence[int]]) -> list[PhraseLine]:
        if _stamp(self.path) != self._stamp:
            raise InvalidInput(f"{self.path} has changed since it was opened; open it again")
        lines = []
        with self.path.open("rb") as file:
            for number, offset in places:
                file.seek(offset)
                with line_context(self.path, number):
                    lines.append(parse_line(file.readline()))
        return lines

    def _labels(self, lines: Sequence[PhraseLine]) -> Tensor | None:
        if not self.categories:
            return None
        numbers = {name: number for number, name in enumerate(self.categories)}
        return torch.tensor([numbers.get(line.category or "", -1) for line in lines])


def read_frames(root: Path, paths: Sequence[str]) -> Tensor:
    """The frames [T, 3, H, W] uint8 of one picture or clip.

    Raises:
        InvalidInput: if one cannot be read, or they differ in size.
    """
    frames = [read_image(root / path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise InvalidInput(
                f"{path} is {frame.shape[-1]}x{frame.shape[-2]} pixels, and {paths[0]} of the same clip is "
                f"{frames[0].shape[-1]}x{frames[0].shape[-2]}; frames of a clip have one size"
            )
    return torch.cat(frames)


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1 on, offset in bytes and text of every line that is not blank.

    Raises:
        InvalidInput: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, offset, text
                offset += len(text)
    except OSError as error:
        raise InvalidInput(f"the phrase file {path} cannot be read: {error.strerror}") from error


class FileFinder:
    """Looks whether files are there, each one once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: set[str] = set()

    def check(self, line: PhraseLine) -> None:
        """Raises InvalidInput if a picture or a PNG mask of the line is missing."""
        masks = [mask for mask in line.masks or () if isinstance(mask, str)]
        for kind, paths in (("picture", line.frames), ("mask", masks)):
            for path in paths:
                if path not in self.seen and not (self.root / path).is_file():
                    raise InvalidInput(
                        f"there is no {kind} {path} in {self.root.absolute()}, where paths start from"
                    )
                self.seen.add(path)


@dataclass(slots=True)
class _Survey:
    """What one pass over a file finds, by split; None is the split of lines that name none."""

    groups: dict[str | None, dict[tuple[str, ...], list[tuple[int, int]]]] = field(default_factory=dict)
    words: dict[str | None, set[str]] = field(default_factory=dict)
    categories: set[str] = field(default_factory=set)

    def add(self, line: PhraseLine, number: int, offset: int) -> None:
        self.groups.setdefault(line.split, {}).setdefault(line.frames, []).append((number, offset))
        self.words.setdefault(line.split, set()).update(words_of(line.phrase))
        if line.category is not None:
            self.categories.add(line.category)

    def of_split(self, path: Path, asked: str | None) -> list[str | None]:
        """The splits to read when `asked` is asked for."""
        if asked is None:
            return list(self.groups)
        named = [name for name in self.groups if name is not None]
        if asked in named:
            return [asked]
        if named:
            raise UnknownName(f"split in {path.name}", asked, named)
        stem, _, last = path.stem.rpartition(asked)
        if last or stem[-1:].isalnum():
            raise InvalidInput(
                f'no line of {path.name} names a split, and {asked!r} was asked for; write "split" into its lines, '
                f"call the file {asked}.jsonl, or ask for no split"
            )
        return [None]

    def groups_of(self, splits: Sequence[str | None]) -> list[list[tuple[int, int]]]:
        """Places of lines about the same frames, in the order in which the frames first appear."""
        merged: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        for split in splits:
            for frames, places in self.groups[split].items():
                merged.setdefault(frames, []).extend(places)
        return sorted(sorted(places) for places in merged.values())


def _survey(path: Path, root: Path) -> _Survey:
    survey, finder = _Survey(), FileFinder(root)
    for number, offset, text in numbered_lines(path):
        with line_context(path, number):
            line = parse_line(text)
            finder.check(line)
        survey.add(line, number, offset)
    if not survey.groups:
        raise InvalidInput(f"{path} holds no phrase; write one JSON line for each")
    return survey


def _chunks(groups: Sequence[Sequence[tuple[int, int]]], count: int | None) -> list[np.ndarray]:
    parts = (
        np.array(group[start : start + MOST_PHRASES], dtype=np.int64)
        for group in groups
        for start in range(0, len(group), MOST_PHRASES)
    )
    return [part for part, _ in zip(parts, range(count), strict=False)] if count is not None else list(parts)


def _stamp(path: Path) -> tuple[int, int]:
    """What tells whether a file has changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidInput(f"the phrase file {path} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns
