"""Data sets written in another form: the open form, REFER and gRefCOCO, the per-sentence COCO form, VLT's.

Pictures are not copied: every form names them by a path. What a form cannot carry is told, not dropped in silence.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg.data.formats.masks import check_polygons, rle_of_mask
from refseg.data.formats.phrase_line import PhraseLine, StoredMask, line_context, parse_line, write_phrases
from refseg.data.formats.records import dumps
from refseg.data.readers.coco_style import VLT_LEAVES_OUT, coco_form, stored_segmentation, vlt_form, vlt_mask
from refseg.data.readers.image_set import ReferenceImages
from refseg.data.readers.phrase_file import numbered_lines
from refseg.data.readers.sparse_video_set import LabelledFrames
from refseg.data.readers.video_set import VideoPhrases
from refseg.errors import InvalidInput
from refseg.files import whole_file, whole_folder, write_whole_text
from refseg.media.images import image_size
from refseg.structures import Size

PublishedDataset = ReferenceImages | VideoPhrases | LabelledFrames
_HOLDERS = (".mp4", ".parquet")  # files that hold pictures
FORMS = ("jsonl", "refer", "grefcoco", "coco", "vlt")
_NUMBERED = re.compile(r"(\d{1,15})-(\d{1,15})")


@dataclass(slots=True)
class ConversionReport:
    """What was written, and what the form could not carry."""

    paths: list[Path] = field(default_factory=list)
    records: int = 0
    lost: list[str] = field(default_factory=list)  # sentences


def write_jsonl(
    data: PublishedDataset, path: Path, base: Path, *, extract: Path | None = None
) -> ConversionReport:
    """A data set in the open form; `base` is the folder that the paths of its lines start from.

    Pictures that lie inside other files (videos of A2D, parquet files) are written into the folder `extract`, as PNG.

    Raises:
        InvalidInput: if the data set has no masks, a picture lies outside `base`, or inside another file and `extract` is None.
    """
    lines = list(lines_of(data, base, extract=extract))
    write_phrases(path, lines)
    done = ConversionReport([path], len(lines))
    if isinstance(data, ReferenceImages):
        kind = data.options.text or "sent"
        done.lost.append(f"of the texts of a phrase only {kind!r} was written; the open form has one")
        rows = data.rows.tolist()
        if any(len(data.table.targets(row)) > 1 for row in rows):
            done.lost.append("masks of several objects were written as their union")
        empty = sum(len(data.table.targets(row)) > 0 for row in rows if not data.table.mask(row).any())
        if empty:
            done.lost.append(f'{empty} references whose mask has no pixel were written as "no_target"')
    return done


def lines_of(data: PublishedDataset, base: Path, *, extract: Path | None = None) -> Iterator[PhraseLine]:
    """The lines of `write_jsonl`, in the published order of phrases within an example."""
    if isinstance(data, ReferenceImages):
        yield from _reference_lines(data, base, extract)
        return
    for index in range(len(data)):
        known = data.annotation(index)
        masks = data.masks(index)
        if masks is None:
            raise InvalidInput(f"the split {data.split} of {data.name} has no masks; convert another one")
        targets = known.target_frames or range(len(known.paths))
        paths = tuple(_below(base, path) for path in _frame_files(data, index, targets, extract))
        for place, phrase in enumerate(known.phrases):
            yield PhraseLine(
                frames=paths,
                phrase=phrase,
                masks=_frame_masks(masks[place]),
                split=data.split,
                register=known.registers[place] if known.registers else None,
                category=data.categories[known.labels[place]] if known.labels[place] >= 0 else None,
                id=f"{known.name}-{known.ids[place]}",
            )


def _frame_masks(masks: Tensor) -> tuple[StoredMask | None, ...] | None:
    """Codes of the frames; a phrase whose object is in none of them is one that nothing answers to."""
    codes = tuple(rle_of_mask(mask) if mask.any() else None for mask in masks)
    return codes if any(codes) else None


def _reference_lines(data: ReferenceImages, base: Path, extract: Path | None) -> Iterator[PhraseLine]:
    table = data.table
    written: set[Path] = set()
    for row in data.rows.tolist():
        reference = table.reference(row)
        mask = _one_mask(data, row)
        objects = reference.objects
        category = table.categories.get(objects[0].category) if objects else None
        picture = _below(base, _picture_file(data, reference.picture.file, extract, written))
        for sentence, phrase in zip(reference.sentences, data.phrases_of(row), strict=True):
            yield PhraseLine(
                frames=(picture,),
                phrase=phrase,
                masks=None if mask is None else (mask,),
                split=reference.split,
                category=category or None,
                id=f"{reference.id}-{sentence.id}",
            )


def _one_mask(data: ReferenceImages, row: int) -> StoredMask | None:
    """The outlines as stored where the open form can carry them, else the drawn mask; None where it has no pixel."""
    targets = data.table.targets(row)
    mask = data.table.mask(row, data.options.masks)
    if not mask.any():
        return None
    if len(targets) == 1 and data.options.masks == "union":
        parts = data.table.parts(targets[0])
        stored = [part.tolist() for part in parts if not isinstance(part, bytes)]
        if len(stored) == len(parts) and _are_plain(stored, data.table.picture_size(row)):
            return stored
    return rle_of_mask(mask)


def _are_plain(stored: list[list[float]], size: Size) -> bool:
    """Whether the open form takes the polygons as they are."""
    try:
        check_polygons(stored)
    except InvalidInput:
        return False
    height, width = size
    return all(
        -width <= x <= 2 * width and -height <= y <= 2 * height
        for part in stored
        for x, y in zip(part[0::2], part[1::2], strict=True)
    )


def _frame_files(
    data: VideoPhrases | LabelledFrames, index: int, frames: Iterable[int], extract: Path | None
) -> list[Path]:
    """The files of some frames of an example; frames of a video file are written into `extract`."""
    known = data.annotation(index)
    found = []
    for frame in frames:
        path = known.paths[frame]
        if path.suffix in _HOLDERS:
            path = _place_for(data.name, extract) / known.name / f"{known.frames[frame]}.png"
            _save(data[index].frames[frame], path)
        found.append(path)
    return found


def _picture_file(data: ReferenceImages, file: str, extract: Path | None, written: set[Path]) -> Path:
    """The file of a picture; one inside a parquet file is written into `extract`, once."""
    path = data.store.path(file)
    if path.suffix not in _HOLDERS:
        return path
    path = (_place_for(data.name, extract) / file).with_suffix(".png")
    if path not in written:
        _save(data.store.read(file)[0], path)
        written.add(path)
    return path


def _place_for(name: str, extract: Path | None) -> Path:
    if extract is None:
        raise InvalidInput(
            f"the pictures of {name} lie inside other files, and the open form names files of pictures; "
            "--extract names a folder to write them into"
        )
    return extract


def _save(frame: Tensor, path: Path) -> None:
    """Writes a frame [3, H, W] uint8 as PNG, which loses nothing of what was read."""
    from PIL import Image

    from refseg.media.drawing import save_picture

    save_picture(Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()), path)


def _below(base: Path, path: Path) -> str:
    relative = os.path.relpath(path.absolute(), base.absolute())
    if relative.startswith(".."):
        raise InvalidInput(
            f"the picture {path} lies outside {base}, which paths start from; name another folder with --base"
        )
    return Path(relative).as_posix()


def write_refer(
    lines: Iterable[PhraseLine], folder: Path, *, root: Path, split_by: str, several: bool
) -> ConversionReport:
    """Lines of the open form about pictures as `instances.json` and a refs file, in `folder`, which must not exist.

    Neighbouring lines about one object (same picture, mask, category and split) become one record. An id of the form
    "12-34" gives the numbers of record and sentence; others are numbered as they come.

    Args:
        lines: about single pictures; their paths become `file_name`.
        folder: the folder to write.
        root: the folder that paths start from, where sizes are looked up.
        split_by: the refs file is called refs(`split_by`).p.
        several: write gRefCOCO (`grefs(...).json`), which can say that nothing answers; REFER cannot.

    Raises:
        InvalidInput: if a line is about a clip, has no target (REFER), or a picture cannot be read.
    """
    if folder.exists():
        raise InvalidInput(f"{folder} exists; give the name of a new folder")
    maker = _ReferMaker(root, several=several)
    for line in lines:
        maker.add(line)
    if not maker.records:
        raise InvalidInput("there is no line to convert")
    with whole_folder(folder) as temporary:
        write_whole_text(temporary / "instances.json", dumps(maker.instances()))
        if several:
            refs = f"grefs({split_by}).json"
            write_whole_text(temporary / refs, dumps(maker.records))
        else:
            refs = f"refs({split_by}).p"
            (temporary / refs).write_bytes(pickle.dumps(maker.records, protocol=2))
    return ConversionReport([folder / "instances.json", folder / refs], len(maker.records), list(maker.lost))


class _ReferMaker:
    """Collects lines into pictures, annotations and records."""

    def __init__(self, root: Path, *, several: bool) -> None:
        self.root, self.several = root, several
        self.records: list[dict[str, Any]] = []
        self.lost: dict[str, None] = {}
        self._images: dict[str, dict[str, Any]] = {}
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}
        self._last: tuple[Any, ...] | None = None
        self._taken: set[int] = set()
        self._sentences = 0

    def add(self, line: PhraseLine) -> None:
        """One line."""
        if len(line.frames) > 1:
            raise InvalidInput(f"the phrase {line.phrase!r} is about a clip; REFER knows pictures only")
        if line.masks is None and not self.several:
            raise InvalidInput(
                f"nothing answers to the phrase {line.phrase!r}, which REFER cannot say; write gRefCOCO (--to grefcoco)"
            )
        if line.register:
            self.lost["registers were left out; REFER has no place for them"] = None
        numbers = _NUMBERED.fullmatch(line.id or "")
        if line.id and not numbers:
            self.lost['ids that are not of the form "12-34" were replaced by numbers'] = None
        given = int(numbers[1]) if numbers else None
        key = (line.frames, line.masks, line.category, line.split, given)
        if key != self._last:
            self._begin(line, given)
            self._last = key
        record = self.records[-1]
        number = int(numbers[2]) if numbers else self._sentences
        self._sentences = max(self._sentences, number) + 1
        words = line.phrase.split()
        record["sent_ids"].append(number)
        record["sentences"].append(
            {"sent_id": number, "raw": line.phrase, "sent": line.phrase, "tokens": words}
        )

    def _begin(self, line: PhraseLine, given: int | None) -> None:
        number = given if given is not None and given not in self._taken else max(self._taken, default=-1) + 1
        self._taken.add(number)
        image = self._image(line.frames[0])
        category = self._categories.setdefault(line.category or "", len(self._categories) + 1)
        if not line.split:
            self.lost['lines that name no split are in "train"'] = None
        annotation = -1 if line.masks is None else self._annotation(line, image, category)
        several = self.several
        self.records.append(
            {
                "ref_id": number,
                "ann_id": [annotation] if several else annotation,
                "image_id": image["id"],
                "category_id": [category if annotation >= 0 else -1] if several else category,
                "split": line.split or "train",
                "file_name": image["file_name"],
                "sent_ids": [],
                "sentences": [],
            }
        )

    def _image(self, path: str) -> dict[str, Any]:
        if path not in self._images:
            height, width = image_size(self.root / path)
            _must_be_upright(self.root / path)
            number = len(self._images) + 1
            self._images[path] = {"id": number, "file_name": path, "height": height, "width": width}
        return self._images[path]

    def _annotation(self, line: PhraseLine, image: dict[str, Any], category: int) -> int:
        from refseg.data.formats.masks import boxes_of_masks

        assert line.masks is not None
        stored = line.masks[0]
        mask = line.read_masks(self.root, (image["height"], image["width"]))[0]
        left, top, right, bottom = (float(v) for v in boxes_of_masks(mask))
        # A picture of a mask becomes a code; polygons and codes stay what they are.
        segmentation = stored if isinstance(stored, list) else [rle_of_mask(mask)]
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "segmentation": segmentation,
                "area": float(mask.sum()),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
        )
        return len(self._annotations)

    def instances(self) -> dict[str, Any]:
        """What `instances.json` says."""
        return {
            "info": {"description": "converted by refseg from the open form"},
            "licenses": [],
            "images": list(self._images.values()),
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name} for name, number in self._categories.items()],
        }


def _must_be_upright(path: Path) -> None:
    """The open form speaks of upright pictures, REFER of pictures as they are stored."""
    from PIL import Image

    with Image.open(path) as picture:
        if picture.getexif().get(0x0112, 1) != 1:
            raise InvalidInput(
                f"{path} is turned by its EXIF orientation, which REFER ignores; save the picture upright"
            )


def read_lines(path: Path, split: str | None = None) -> Iterator[PhraseLine]:
    """The lines of a file in the open form; of one split where one is named.

    Raises:
        InvalidInput: naming the line that is wrong.
    """
    for number, _, text in numbered_lines(path):
        with line_context(path, number):
            line = parse_line(text)
        if split is None or line.split == split:
            yield line


def write_coco(data: ReferenceImages, folder: Path) -> ConversionReport:
    """The split in the per-sentence COCO form, as `instances_<dataset>_<split>.json` in `folder`."""
    segmentations: dict[int, Any] = {}
    for row in data.rows.tolist():
        reference = data.table.reference(row)
        segmentations |= {o.id: stored_segmentation(o, reference.picture.size) for o in reference.objects}
    split = data.split or "all"
    form = coco_form(data.table, data.split or "", name=data.name, segmentations=segmentations)
    path = folder / f"instances_{data.name}_{split}.json"
    write_whole_text(path, dumps(form))
    lost = ["of the texts of a phrase only the cleaned one was written; the form has one"]
    return ConversionReport([path], len(form["images"]), lost)


def write_vlt(data: ReferenceImages, folder: Path) -> ConversionReport:
    """The split in VLT's form: `anns/<dataset>/<split>.json` and `masks/<dataset>/<ref_id>.png` in `folder`."""
    from PIL import Image

    path = folder / "anns" / data.name / f"{data.split or 'all'}.json"
    entries = vlt_form(data.table, data.split or "")
    for row in data.rows.tolist():
        number = int(data.table.arrays["ref.id"][row])
        if data.table.reference(row).picture.file in VLT_LEAVES_OUT:
            continue
        with whole_file(folder / "masks" / data.name / f"{number}.png") as temporary:
            Image.fromarray(vlt_mask(data.table, row)).save(temporary)
    write_whole_text(path, json.dumps(entries))
    fallen = len(data.rows) - len(entries)
    lost = [f"{fallen} objects of pictures that VLT passes over were left out"] if fallen else []
    return ConversionReport([path, folder / "masks" / data.name], len(entries), lost)
