"""Scenes as files: pictures, and one JSON line for every phrase in refseg's open form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from refseg.data.formats.masks import rle_of_mask
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.sprites import sprites_hash
from refseg.errors import InvalidInput
from refseg.files import whole_folder
from refseg.structures import Example

PHRASES_FILE = "phrases.jsonl"
ORIGIN_FILE = "origin.json"


def write_scenes(
    out: Path,
    *,
    spec: ScenesSpec,
    count: int,
    force: bool = False,
    on_scene: Callable[[int], None] | None = None,
) -> Path:
    """Draws `count` scenes into the folder `out`, and returns the path of the file of phrases.

    Beside it lie the pictures (`images/000000.png`; of a clip `frames/000000/00.png` ...) and `origin.json`, which
    says what they were drawn from. The folder appears when everything is written; an interrupted run leaves nothing.
    `on_scene` is called with the number of finished scenes.

    Raises:
        InvalidInput: `out` exists and `force` is not given, or cannot be written.
    """
    if out.exists() and not force:
        raise InvalidInput(f"{out} exists already; choose another folder, or replace it with --force.")
    if out.exists() and not _is_replaceable(out):
        raise InvalidInput(
            f"{out} does not look like a folder of scenes (it has no {ORIGIN_FILE}) and is not replaced; remove it yourself."
        )
    try:
        with whole_folder(out) as folder:
            _fill(folder, replace(spec, count=count), on_scene)
    except OSError as error:
        raise InvalidInput(
            f"{out} cannot be written ({error.strerror}); make room or choose another folder."
        ) from error
    return out / PHRASES_FILE


def _is_replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / ORIGIN_FILE).is_file() or not any(out.iterdir()))


def _fill(folder: Path, spec: ScenesSpec, on_scene: Callable[[int], None] | None) -> None:
    with (folder / PHRASES_FILE).open("w", encoding="utf-8", newline="\n") as file:
        for number, example in enumerate(Scenes(spec)):
            for line in _lines(example, number, folder, spec.split):
                file.write(json.dumps(line) + "\n")
            if on_scene is not None:
                on_scene(number + 1)
    origin = {**asdict(spec), "registers": dict(spec.shares()), "sprites_hash": sprites_hash(spec.sprites)}
    (folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8", newline="\n")


def _lines(example: Example, number: int, folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The lines of one scene; its pictures are written on the way."""
    assert example.masks is not None
    assert example.registers is not None
    pictures = _write_pictures(example, number, folder)
    is_image = len(pictures) == 1
    for place, (phrase, register, masks) in enumerate(
        zip(example.phrases, example.registers, example.masks, strict=True)
    ):
        line: dict[str, Any] = {"image": pictures[0]} if is_image else {"frames": pictures}
        line |= {"id": f"{number:06d}-{place}", "phrase": phrase, "register": register, "split": split}
        if masks.any():
            codes = [rle_of_mask(mask) for mask in masks]
            line["mask"] = codes[0] if is_image else codes
        else:
            line["no_target"] = True
        yield line


def _write_pictures(example: Example, number: int, folder: Path) -> list[str]:
    """The paths of the frames, relative to the folder."""
    count = len(example.frames)
    names = (
        [f"frames/{number:06d}/{frame:02d}.png" for frame in range(count)]
        if count > 1
        else [f"images/{number:06d}.png"]
    )
    for name, frame in zip(names, example.frames, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path, optimize=True)
    return names
