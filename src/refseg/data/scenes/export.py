"""Scenes as files: pictures, and one JSON line for every phrase in refseg's open form."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.sprites import sprites_hash
from refseg.errors import InvalidInput
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
    with _new_folder(out) as folder:
        spec = replace(spec, count=count)
        with (folder / PHRASES_FILE).open("w", encoding="utf-8") as file:
            for number, example in enumerate(Scenes(spec)):
                for line in _lines(example, number, folder, spec.split):
                    file.write(json.dumps(line) + "\n")
                if on_scene is not None:
                    on_scene(number + 1)
        origin = {
            **asdict(spec),
            "registers": dict(spec.shares()),
            "sprites_hash": sprites_hash(spec.sprites),
        }
        (folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return out / PHRASES_FILE


def _is_replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / ORIGIN_FILE).is_file() or not any(out.iterdir()))


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written ({error}); choose a folder that is yours.") from None
    try:
        folder.chmod(0o755)
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.replace(out)
    except OSError as error:
        raise InvalidInput(
            f"{out} cannot be written ({error}); make room or choose another folder."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lines(example: Example, number: int, folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The lines of one scene; its pictures are written on the way."""
    assert example.masks is not None
    assert example.registers is not None
    pictures = _write_pictures(example, number, folder)
    is_image = len(pictures) == 1
    for place, (phrase, register, masks) in enumerate(
        zip(example.phrases, example.registers, example.masks.numpy(), strict=True)
    ):
        line: dict[str, Any] = {"image": pictures[0]} if is_image else {"frames": pictures}
        line |= {"id": f"{number:06d}-{place}", "phrase": phrase, "register": register, "split": split}
        if masks.any():
            codes = [encode_mask(mask) for mask in masks]
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


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [H, W] as a compressed run-length code in COCO's form."""
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(edge) for edge in code["size"]], "counts": code["counts"].decode("ascii")}
