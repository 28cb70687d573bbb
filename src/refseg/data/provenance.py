"""Which data a result rests on: hashes of what was read, or of what is drawn, so that another person can tell whether theirs is it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from refseg.data.dataset import PhraseDataset
from refseg.data.leakage import Subset
from refseg.data.readers.image_set import ReferenceImages
from refseg.data.readers.phrase_file import PhraseFile
from refseg.data.readers.sparse_video_set import LabelledFrames
from refseg.data.readers.video_set import VideoPhrases
from refseg.data.readers.vlformer_video import VideoSentences
from refseg.data.scenes.dataset import Scenes
from refseg.structures import Example

PROBE = 4
"""Scenes that are drawn and hashed: another world, or another way of drawing it, gives other ones."""


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
"""Files that say what is asked of videos, below the folder of the data set; those that are there are hashed. `mask_dict.json`
of MeViS has an index, which knows its hash."""


def fingerprint(dataset: PhraseDataset) -> dict[str, Any]:
    """What `describe` tells, with the number of phrases and the SHA-256 of every annotation file that was read.

    Keys beside those of `describe`:
        phrases: how many, where examples are stored.
        sources: file name, of videos below the folder of the data set: SHA-256.
        index: of the parsed annotations, where they are kept as an index: it stands for files and form together.
        probe: of the first scenes as drawn here.
        kept: of a phrase file that is not read whole: examples, and the SHA-256 of their numbers.
    """
    if isinstance(dataset, Scenes):
        return describe(dataset) | {"probe": _probe(dataset)}
    if isinstance(dataset, Subset):
        numbers = np.asarray(dataset.numbers, dtype=np.int64)
        kept = {"examples": len(numbers), "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
        return fingerprint(dataset.examples) | {"phrases": num_phrases(dataset), "kept": kept}
    told = describe(dataset) | {"phrases": num_phrases(dataset)}
    if isinstance(dataset, PhraseFile):
        return told
    found = dict(_annotation_files(dataset))
    told["sources"] = told.get("sources", {}) | found
    if isinstance(dataset, ReferenceImages):
        told["index"] = dataset.table.columns.facts["key"]
    return told


def num_phrases(dataset: PhraseDataset) -> int | None:
    """Phrases of all examples, counted without opening a picture; None where that cannot be told."""
    if isinstance(dataset, Scenes):
        return len(dataset) * dataset.spec.phrases
    if isinstance(
        dataset, ReferenceImages | PhraseFile | VideoPhrases | LabelledFrames | VideoSentences | Subset
    ):
        return dataset.num_phrases
    return None


def _annotation_files(dataset: Any) -> Iterator[tuple[str, str]]:
    """Names below the folder of a data set of videos, and SHA-256."""
    if isinstance(dataset, VideoSentences):
        yield dataset.path.name, _sha256(dataset.path)
    if isinstance(dataset, VideoPhrases | LabelledFrames):
        folder: Path = dataset.folder  # type: ignore[union-attr]  # every reader of videos has one
        for pattern in _ANNOTATIONS:
            for path in sorted(folder.glob(pattern.format(split=dataset.split))):
                yield path.relative_to(folder).as_posix(), _sha256(path)


def _probe(scenes: Scenes) -> str:
    """Of frames, masks and phrases of the first scenes."""
    digest = hashlib.sha256()
    for index in range(min(PROBE, len(scenes))):
        _add(digest, scenes[index])
    return digest.hexdigest()


def _add(digest: Any, example: Example) -> None:
    digest.update("\n".join(example.phrases).encode())
    for tensor in (example.frames, example.masks):
        if tensor is not None:
            digest.update(repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(dataset: PhraseDataset) -> dict[str, Any]:
    """What is needed to read the very same examples again, as plain data."""
    from refseg.data.readers.phrase_file import PhraseFile
    from refseg.data.scenes.dataset import Scenes
    from refseg.data.scenes.sprites import sprites_hash

    if isinstance(dataset, Scenes):
        spec = asdict(dataset.spec) | {"count": len(dataset), "registers": dict(dataset.spec.shares())}
        return {"name": "scenes", **spec, "sprites_hash": sprites_hash(dataset.spec.sprites)}
    if isinstance(dataset, PhraseFile):
        return {
            "name": dataset.name,
            "split": dataset.split,
            "count": len(dataset),
            "sha256": dataset.sha256(),
        }
    told = {"name": dataset.name, "split": getattr(dataset, "split", None), "count": len(dataset)}
    options = getattr(dataset, "options", None)
    if options is None:
        return told
    read = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    left_out = {"left_out": dataset.num_left_out} if getattr(dataset, "num_left_out", 0) else {}  # type: ignore[attr-defined]
    return told | {"options": read, "sources": _sources(dataset)} | left_out


def _sources(dataset: Any) -> dict[str, str]:
    """Names and SHA-256 of the annotation files, where an index knows them."""
    holder = getattr(dataset, "table", None) or getattr(dataset, "series", None)
    return {} if holder is None else {s["name"]: s["sha256"] for s in holder.columns.facts["sources"]}
