"""The open form: a text file with one JSON line per phrase, for a person's own pictures.

    {"image": "dogs.jpg", "phrase": "the left dog", "mask": {"size": [480, 640], "counts": "..."}}
    {"image": "dogs.jpg", "phrase": "a cat", "no_target": true}
    {"frames": ["a/0.jpg", "a/1.jpg"], "phrase": "the dog that runs", "mask": ["a/0.png", null]}

`docs/data-form.md` describes every key. Lines are checked one by one, and what is wrong is told with the line's number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from refseg.data.formats.masks import (
    check_polygons,
    check_rle,
    mask_from_polygons,
    mask_from_rle,
    read_mask_png,
)
from refseg.errors import InvalidInput, nearest
from refseg.files import whole_file
from refseg.structures import Outline, Size

KEYS = ("image", "frames", "phrase", "mask", "no_target", "split", "register", "category", "id")

StoredMask = Mapping[str, Any] | str | list[list[float]]
"""A run-length code, the path of a PNG picture, or polygons."""


@dataclass(frozen=True, slots=True)
class PhraseLine:
    """One phrase about one picture or clip, as its line says it; nothing is opened or drawn yet.

    Paths use "/" and start from the file's root.
    """

    frames: tuple[str, ...]  # one path for a picture
    phrase: str
    masks: tuple[StoredMask | None, ...] | None  # one a frame, None where not visible; None = nothing answers
    split: str | None = None
    register: str | None = None  # kind of phrase, for tables by kind
    category: str | None = None  # name of what is referred to
    id: str | None = None

    def outlines(self) -> tuple[Outline | None, ...]:
        """The polygons of every frame's mask; None where it is stored otherwise, or there is none."""
        if self.masks is None:
            return (None,) * len(self.frames)
        return tuple(_outline(mask) for mask in self.masks)

    def read_masks(self, root: Path, size: Size, frames: Sequence[int] | None = None) -> Tensor:
        """Bool [T, H, W], every frame's mask at the size of the frames, or those of some of them.

        Raises:
            InvalidInput: if a mask cannot be drawn at this size, or all of them are empty although something answers.
        """
        if self.masks is None:
            return torch.zeros(len(self.frames if frames is None else frames), *size, dtype=torch.bool)
        chosen = self.masks if frames is None else [self.masks[frame] for frame in frames]
        drawn = torch.stack([_draw(mask, root, size) for mask in chosen])
        if frames is None and not drawn.any():
            raise InvalidInput(
                'the mask has no pixel; write "no_target": true when nothing answers to the phrase'
            )
        return drawn

    def to_json(self) -> str:
        """The line as JSON, without keys that say nothing."""
        is_picture = len(self.frames) == 1
        record: dict[str, Any] = {"image": self.frames[0]} if is_picture else {"frames": list(self.frames)}
        record["phrase"] = self.phrase
        if self.masks is None:
            record["no_target"] = True
        else:
            record["mask"] = self.masks[0] if is_picture else list(self.masks)
        extra = {name: getattr(self, name) for name in ("split", "register", "category", "id")}
        return json.dumps(
            record | {name: value for name, value in extra.items() if value is not None}, ensure_ascii=False
        )


def parse_line(text: str | bytes) -> PhraseLine:
    """The line that a JSON text says.

    Raises:
        InvalidInput: if it is no JSON object, has an unknown key, lacks one, or a value has not the form it must have.
    """
    try:
        record = json.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidInput("the line is not text in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the line is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InvalidInput(
            f'the line is {_kind(record)}, and must be an object such as {{"image": ..., "phrase": ...}}'
        )
    unknown = next((key for key in record if key not in KEYS), None)
    if unknown is not None:
        near = nearest(unknown, KEYS, count=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KEYS)}."
        raise InvalidInput(f"there is no key named {unknown!r}; {hint}")
    frames, phrase = _frames(record), _text(record, "phrase")
    if phrase is None:
        raise InvalidInput('the line has no "phrase"; say in words what the mask shows')
    return PhraseLine(
        frames=frames,
        phrase=phrase,
        masks=_masks(record, len(frames)),
        split=_text(record, "split"),
        register=_text(record, "register"),
        category=_text(record, "category"),
        id=_text(record, "id"),
    )


def _outline(mask: StoredMask | None) -> Outline | None:
    if not isinstance(mask, list | tuple):
        return None
    return tuple(torch.tensor(polygon, dtype=torch.float64).view(-1, 2) for polygon in mask)


def words_of(phrase: str) -> list[str]:
    """The words of a phrase: lower-case, split where letters and digits end."""
    return re.findall(r"[^\W_]+", phrase.lower())


def write_phrases(path: Path, lines: Iterable[PhraseLine]) -> None:
    """Writes lines in the open form; the file is whole or unchanged.

    Raises:
        InvalidInput: if a line would not be read back: an empty phrase, a path that leaves the root, a wrong mask.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(lines, start=1):
            text = line.to_json()
            with line_context(path, number):
                parse_line(text)
            file.write(text + "\n")


@contextmanager
def line_context(path: Path, number: int) -> Iterator[None]:
    """Refusals inside the block are told with the file's name and the line's number."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{path.name} line {number}: {error}") from error


def _frames(record: Mapping[str, Any]) -> tuple[str, ...]:
    if ("image" in record) == ("frames" in record):
        raise InvalidInput(
            'a line has either "image" (a path) or "frames" (a list of paths), and this one has '
            + ("both" if "image" in record else "neither")
        )
    if "image" in record:
        return (_path(record["image"], "image"),)
    paths = record["frames"]
    if not isinstance(paths, list) or not paths:
        raise InvalidInput(f'"frames" is {_kind(paths)}, and must be a list of one path or more')
    return tuple(_path(path, "frames") for path in paths)


def _masks(record: Mapping[str, Any], num_frames: int) -> tuple[StoredMask | None, ...] | None:
    is_absent = record.get("no_target", False)
    if not isinstance(is_absent, bool):
        raise InvalidInput(f'"no_target" is {_kind(is_absent)}, and must be true or false')
    mask = record.get("mask")
    if is_absent:
        if mask is not None:
            raise InvalidInput('the line has a "mask" and says "no_target"; leave one of them out')
        return None
    if mask is None:
        raise InvalidInput(
            'the line has no "mask"; write "no_target": true when nothing answers to the phrase'
        )
    if "image" in record:
        return (_mask(mask),)
    if not isinstance(mask, list) or len(mask) != num_frames:
        given = f"a list of {len(mask)}" if isinstance(mask, list) else _kind(mask)
        raise InvalidInput(
            f'"mask" of a clip is a list with one mask (or null) for each of its {num_frames} frames, and this one is {given}'
        )
    masks = tuple(None if item is None else _mask(item) for item in mask)
    if not any(item is not None for item in masks):
        raise InvalidInput(
            'the mask is null in every frame; write "no_target": true when nothing answers to the phrase'
        )
    return masks


def _mask(mask: Any) -> StoredMask:
    if isinstance(mask, str):
        return _path(mask, "mask")
    if isinstance(mask, dict):
        check_rle(mask)
        return mask
    if isinstance(mask, list):
        check_polygons(mask)
        return mask
    raise InvalidInput(
        f"a mask is a run-length code, the path of a PNG picture or a list of polygons, not {_kind(mask)}"
    )


def _draw(mask: StoredMask | None, root: Path, size: Size) -> Tensor:
    if mask is None:
        return torch.zeros(size, dtype=torch.bool)
    if isinstance(mask, str):
        return read_mask_png(root / mask, size)
    return mask_from_polygons(mask, size) if isinstance(mask, list) else mask_from_rle(mask, size)


def _path(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value or not _is_encodable(value) or not value.isprintable():
        raise InvalidInput(f'"{key}" holds {_kind(value)} where the path of a file must stand')
    if "\\" in value:
        raise InvalidInput(f'the path {value!r} has backslashes; write "/" between folders')
    path = PurePosixPath(value)
    if path.is_absolute() or PureWindowsPath(value).drive or ".." in path.parts:
        raise InvalidInput(
            f"the path {value!r} leaves the folder that paths start from; "
            "write it relative to the file, or name another folder as the root"
        )
    return value


def _text(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not _is_encodable(value):
        raise InvalidInput(f'"{key}" is {_kind(value)}, and must be text that is not empty')
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "an empty text" if not value.strip() else f"the text {value[:40]!r}"
    if isinstance(value, int | float):
        return f"the number {value:g}" if abs(value) < 1e300 else "an enormous number"
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"
