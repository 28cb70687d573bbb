"""The per-sentence COCO form (ReferFormer, VLFormer, the MDETR family) and VLT's form: written from REFER, and the first one read.

In the COCO form each sentence is a picture record and an annotation with the same new id, counted from 1 in each split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refseg.data.formats.index import Columns, Table
from refseg.data.formats.masks import LEAST_NUMBERS, Part
from refseg.data.formats.records import OnProblem, Record, raise_problem, read_json_object
from refseg.data.formats.reference_table import Picture, ReferenceTable, Sentence, StoredObject, TableBuilder
from refseg.data.published import COCO_CATEGORY_IDS
from refseg.data.readers.refer import open_records, read_categories, read_object, read_picture
from refseg.errors import InvalidInput
from refseg.structures import Size

VLT_LEAVES_OUT = ("19579.jpg", "17975.jpg", "19575.jpg")
"""Pictures of RefClef that VLT's conversion passes over."""


def open_coco_form(path: Path, split: str, *, skips: bool = False) -> Columns:
    """The index of an `instances_<dataset>_<split>.json`; its references are all of that split. `skips` as in `open_refer`.

    Raises:
        InvalidInput: naming file, record and field, if something in it cannot be used.
    """
    return open_records(
        path.with_name(f".{path.stem}"),
        [path],
        lambda note: build_coco_form(path, split, on_problem=note),
        skips=skips,
    )


def build_coco_form(path: Path, split: str, *, on_problem: OnProblem = raise_problem) -> Table:
    """The file as columns; a record that cannot be used is told to `on_problem` and left out."""
    file = read_json_object(path)
    owned: dict[int, list[Record]] = {}
    for number, item in enumerate(file.items("annotations")):
        try:
            record = Record.of(item, f"{path.name} annotations {number}")
            owned.setdefault(record.whole("image_id"), []).append(record)
        except InvalidInput as error:
            on_problem(error)
    builder = TableBuilder()
    pictures: dict[int, int] = {}
    for number, item in enumerate(file.items("images")):
        try:
            image = Record.of(item, f"{path.name} images {number}")
            _add_sentence(builder, pictures, image, owned.get(image.whole("id"), []), split)
        except InvalidInput as error:
            on_problem(error)
    facts = {
        "skips_crowds": False,
        "categories": read_categories(file),
        "pictures": len(pictures),
        "annotations": len(file.items("annotations")),
    }
    return builder.table(facts)


def _add_sentence(
    builder: TableBuilder, pictures: dict[int, int], image: Record, annotations: Sequence[Record], split: str
) -> None:
    number, caption = image.whole("id"), image.text("caption")
    stored = read_picture(image)
    original = image.whole("original_id") if "original_id" in image.values else number
    objects = [read_object(annotation, stored.size) for annotation in annotations]
    if original not in pictures:
        pictures[original] = builder.add_picture(Picture(original, stored.size, stored.file))
    elif builder.pictures[pictures[original]].size != stored.size:
        raise InvalidInput(
            f"{image.where}: picture {original} has another size here than in an earlier record"
        )
    builder.add_reference(
        number,
        picture=pictures[original],
        split=split,
        objects=[builder.add_object(stored_object) for stored_object in objects],
        is_empty=not objects,
        sentences=[Sentence(number, caption, caption, tuple(caption.split()))],
    )


def split_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The files of the form in a folder, by data set and split."""
    found = {}
    for path in sorted(folder.glob("*_*_*.json")):
        parts = path.stem.split("_")
        if parts[0] in ("instances", "finetune") and len(parts) >= 3:
            found["_".join(parts[1:-1]), parts[-1]] = path
    return found


def coco_form(
    table: ReferenceTable, split: str, *, name: str, segmentations: dict[int, Any]
) -> dict[str, Any]:
    """A split in the COCO form.

    Args:
        table: the references.
        split: as `ReferenceTable.query` reads it.
        name: what `dataset_name` says.
        segmentations: by id of the annotation, as stored, so that no digit of a coordinate is lost.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in table.query(split):
        reference = table.reference(int(row))
        for sentence in reference.sentences:
            number = len(images) + 1
            images.append(_image(reference.picture, sentence, number, name))
            annotations += [_annotation(o, number, segmentations[o.id]) for o in reference.objects]
    categories = [{"id": number, "name": title} for number, title in table.categories.items()]
    extra = table.facts.get("extra", {})
    return {"categories": categories, **extra, "images": images, "annotations": annotations}


def _image(picture: Picture, sentence: Sentence, number: int, name: str) -> dict[str, Any]:
    height, width = picture.size
    return {
        "file_name": picture.file,
        "height": height,
        "width": width,
        "original_id": picture.id,
        "id": number,
        "caption": sentence.sent,
        "dataset_name": name,
    }


def _annotation(stored: StoredObject, number: int, segmentation: Any) -> dict[str, Any]:
    return {
        "segmentation": segmentation,
        "area": stored.area,
        "iscrowd": int(stored.is_crowd),
        "bbox": list(stored.box),
        "image_id": number,
        "category_id": stored.category,
        "id": number,
        "original_id": stored.id,
    }


def stored_segmentation(stored: StoredObject, size: Size) -> Any:
    """A segmentation in the form in which COCO stores it; numbers are those of the file."""
    parts = [_plain(part, size) for part in stored.parts]
    return parts[0] if stored.is_bare else parts


def _plain(part: Part, size: Size) -> Any:
    if isinstance(part, bytes):
        return {"size": list(size), "counts": part.decode("ascii")}
    return part.tolist()


def clipped_boxes(objects: Sequence[StoredObject], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Boxes x1, y1, x2, y2 [N, 4] float32 as ReferFormer computes them, and which of them [N] have an area.

    x + width and y + height are added in float32, then clipped to the picture.
    """
    boxes = np.array([stored.box for stored in objects], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = size
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    return boxes, (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])


def training_parts(stored: StoredObject) -> list[Part]:
    """The parts that VLFormer trains with: codes, and polygons of an even count of numbers, three points and more."""
    return [
        part
        for part in stored.parts
        if isinstance(part, bytes) or (len(part) >= LEAST_NUMBERS and len(part) % 2 == 0)
    ]


def vlt_form(table: ReferenceTable, split: str) -> list[dict[str, Any]]:
    """`anns/<dataset>/<split>.json` of VLT: one entry an object, in the order of the file.

    # Published behaviour: objects of three pictures of RefClef are left out.
    """
    entries = []
    for row in table.query(split):
        reference = table.reference(int(row))
        if reference.picture.file in VLT_LEAVES_OUT:
            continue
        stored = reference.objects[0]
        x, y, width, height = (int(v) for v in stored.box)
        said = [
            {"idx": number, "sent_id": sentence.id, "sent": sentence.sent.strip()}
            for number, sentence in enumerate(reference.sentences)
        ]
        entries.append(
            {
                "bbox": [x, y, x + width, y + height],
                "cat": vlt_category(stored.category),
                "segment_id": reference.id,
                "img_name": reference.picture.file,
                "sentences": said,
                "sentences_num": len(said),
            }
        )
    return entries


def vlt_mask(table: ReferenceTable, row: int) -> np.ndarray:
    """`masks/<dataset>/<ref_id>.png` of VLT, uint8 [H, W]: the number of parts times 255, which wraps around in uint8."""
    return (table.count_mask(row).numpy().astype(np.uint16) * 255).astype(np.uint8)


def vlt_category(number: int) -> int:
    """0..79 for the categories of COCO; another number stays."""
    return COCO_CATEGORY_IDS.index(number) if number in COCO_CATEGORY_IDS else number
