"""Miniatures of published data sets: what the published loaders make of them, and what our readers do."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from parity import datasets_video
from parity.case import Case, NotBuilt
from parity.datasets_tools import mask_facts, same
from refseg.data.catalog import Place, open_dataset, open_place, open_table, own_refer, refs_file
from refseg.data.dataset import ReadOptions
from refseg.data.formats.masks import draw_union, drawable
from refseg.data.formats.reference_table import Reference, ReferenceTable
from refseg.data.published import PUBLISHED
from refseg.data.readers import coco_style
from refseg.data.readers.image_set import ReferenceImages


def run(case: Case) -> None:
    """Runs a case by what its expectations hold; in a copy, because readers keep an index beside the data."""
    expected = json.loads((case.path / "expected.json").read_text())
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "case"
        shutil.copytree(case.path, root)
        _run(case, root, expected)


def _run(case: Case, root: Path, expected: dict[str, Any]) -> None:
    blocks = {
        key: block for key, block in expected.items() if isinstance(block, dict) and "split_by" in block
    }
    if blocks:
        for block in blocks.values():
            run_refer(root, block)
    elif "per_sentence_order" in expected:
        run_several(root, expected)
    elif "objects_form" in expected:
        run_parquet(root, expected)
    elif datasets_video.run(root, expected):
        pass
    elif "splits" in expected and (root / "coco").is_dir():
        run_coco_form(root, expected)
    else:
        raise NotBuilt(f"a data set with the expectations {list(expected)}")


def run_refer(root: Path, block: dict[str, Any]) -> None:
    place = _place(root / block["dataset"], block["split_by"])
    table = open_table(place)
    same(
        {
            "images": table.facts["pictures"],
            "annotations": table.facts["annotations"],
            "refs": len(table),
            "sentences": len(table.arrays["sentence.id"]),
        },
        block["counts"],
        "counts",
    )
    for split, records in block["splits"].items():
        rows = [row for row in table.query(split).tolist() if table.reference(row).split == split]
        same([_record(table, row) for row in rows], records, f"splits {split}")
    for name, ids in block["query_split_names"].items():
        same(table.arrays["ref.id"][table.query(name)].tolist(), ids, f"query {name}")
    for split, wanted in block.get("pytorch_dataset_of_lavt_family", {}).items():
        check_lavt(place, split, wanted)
    for split, wanted in block.get("per_sentence_coco_form", {}).items():
        check_sentence_form(root, table, block["dataset"], split, wanted)
    for split, wanted in block.get("vlt_form", {}).items():
        got = coco_style.vlt_form(table, split)
        row_of = {int(table.arrays["ref.id"][row]): row for row in table.query(split).tolist()}
        for entry in got:
            row = row_of[entry["segment_id"]]
            values = coco_style.vlt_mask(table, row)
            numbers, counts = np.unique(values, return_counts=True)
            entry["mask_png"] = {
                "crc32": zlib.crc32(values.tobytes()),
                "values": {str(n): int(c) for n, c in zip(numbers, counts, strict=True)},
            }
        same(got, wanted, f"vlt form {split}")


def _record(table: ReferenceTable, row: int) -> dict[str, Any]:
    reference = table.reference(row)
    stored, picture = reference.objects[0], reference.picture
    counted = table.count_mask(row).numpy()
    numbers, counts = np.unique(counted, return_counts=True)
    once = table.mask(row, "exactly-one").numpy()
    return {
        "ref_id": reference.id,
        "image_id": picture.id,
        "ann_id": stored.id,
        "category_id": stored.category,
        "category": table.categories[stored.category],
        "split": reference.split,
        "image_file": picture.file,
        "height": picture.size[0],
        "width": picture.size[1],
        "sentences": [
            {"sent_id": s.id, "raw": s.raw, "sent": s.sent, "tokens": list(s.tokens)}
            for s in reference.sentences
        ],
        "bbox_xywh": list(stored.box),
        "annotation_area": stored.area,
        "api_area": int(counted.sum()),
        "api_mask_values": {str(n): int(c) for n, c in zip(numbers, counts, strict=True)},
        "api_mask_crc32": zlib.crc32(counted.tobytes()),
        "union_mask": mask_facts(table.mask(row)),
        "equal_to_one_mask": _two(once),
    }


def _two(mask: np.ndarray) -> dict[str, int]:
    return {
        "area": int(mask.sum()),
        "crc32": zlib.crc32(np.ascontiguousarray(mask, dtype=np.uint8).tobytes()),
    }


def _place(folder: Path, split_by: str) -> Place:
    """A published data set, or one in its form."""
    known = [
        f
        for f in PUBLISHED.values()
        if f.form == "refer" and (f.folder, f.split_by) == (folder.name, split_by)
    ]
    return Place(known[0] if known else own_refer(folder, folder / f"refs({split_by}).p"), folder)


def check_lavt(place: Place, split: str, wanted: dict[str, Any]) -> None:
    """One example an object, `raw` texts, pixels under exactly one part."""
    if not wanted["length"]:  # the published class is empty; ours refuses to open nothing
        assert not len(open_table(place).query(split)), f"LAVT {split}"
        return
    options = ReadOptions(text="raw", masks="exactly-one", item="object")
    data = open_place(place, split=split, count=None, options=options)
    examples = [data[index] for index in range(len(data))]
    samples = [
        {
            "ref_id": int(example.objects[0]),
            "image_size_wh": [example.frames.shape[-1], example.frames.shape[-2]],
            "sentences": len(example.phrases),
            "target_area": _two(example.masks[0, 0].numpy())["area"],
            "target_crc32": _two(example.masks[0, 0].numpy())["crc32"],
        }
        for example in examples
    ]
    texts = [phrase for example in examples for phrase in example.phrases]
    got = {"length": len(data), "sentences_total": len(texts), "texts_in_order": texts, "samples": samples}
    same(got, wanted, f"LAVT {split}")


def check_sentence_form(root: Path, table: ReferenceTable, name: str, split: str, wanted: list[Any]) -> None:
    """Converted to the per-sentence form, written, and read again as ReferFormer reads it."""
    stored = {}
    for row in table.query(split).tolist():
        reference = table.reference(row)
        for item in reference.objects:
            stored[item.id] = coco_style.stored_segmentation(item, reference.picture.size)
    folder = root / "converted" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"instances_{name}_{split}.json"
    form = coco_style.coco_form(table, split, name=name, segmentations=stored)
    path.write_text(json.dumps(form))
    read = ReferenceTable(coco_style.open_coco_form(path, split))
    originals = {a["id"]: a["original_id"] for a in form["annotations"]}
    got = []
    for row in range(len(read)):
        reference = read.reference(row)
        objects = [item for item in reference.objects if not item.is_crowd]
        boxes, kept = coco_style.clipped_boxes(objects, reference.picture.size)
        got.append(
            {
                "id": reference.id,
                "file_name": reference.picture.file,
                "original_image_id": reference.picture.id,
                "original_annotation_id": originals[reference.objects[0].id],
                "caption": reference.sentences[0].sent,
                "kept": int(kept.sum()),
                "boxes_xyxy": boxes[kept].astype(np.float64).tolist(),
                "labels": [item.category for item, keep in zip(objects, kept, strict=True) if keep],
                "mask": _without_crowds(reference),
                "coco_ann_to_mask_crc32": mask_facts(read.mask(row))["crc32"],
            }
        )
    same(got, wanted, f"per-sentence form {split}")


def _without_crowds(reference: Reference) -> dict[str, Any]:
    """What ReferFormer reads of a record: it leaves crowds out."""
    parts = [part for item in reference.objects if not item.is_crowd for part in item.parts]
    return mask_facts(draw_union(parts, reference.picture.size))


def run_coco_form(root: Path, expected: dict[str, Any]) -> None:
    folder = next(path for path in sorted((root / "coco").iterdir()) if coco_style.split_files(path))
    for split, wanted in expected["splits"].items():
        data = open_dataset(folder, split=split)
        assert isinstance(data, ReferenceImages)
        assert len([data[index] for index in range(len(data))]) == len(data)
        got = [_sentence(data, row, folder.parent) for row in data.rows.tolist()]
        for entry, told in zip(got, wanted, strict=True):
            # The published reader ends with an error on a bare compressed code; ours reads it as the other does.
            if isinstance(told["referformer_mask"], str):
                entry["referformer_mask"] = told["referformer_mask"]
        same(got, wanted, f"splits {split}")


def _sentence(data: ReferenceImages, row: int, base: Path) -> dict[str, Any]:
    reference = data.table.reference(row)
    parts = [coco_style.training_parts(item) for item in reference.objects]
    kept = [(item, left) for item, left in zip(reference.objects, parts, strict=True) if left]
    size = reference.picture.size
    return {
        "id": reference.id,
        "file_name": str(data.store.path(reference.picture.file).relative_to(base)),
        "expression": reference.sentences[0].sent,
        "height": size[0],
        "width": size[1],
        "objects": len(kept),
        "category_id": [data.category_ids.index(item.category) for item, _ in kept],
        "bbox_xywh": [list(item.box) for item, _ in kept],
        "parts_kept": ["rle" if isinstance(left[0], bytes) else len(left) for _, left in kept],
        "training_mask_of_kept_parts": [mask_facts(draw_union(drawable(left), size)) for _, left in kept],
        "evaluation_mask": mask_facts(data.table.mask(row)),
        "referformer_mask": _without_crowds(reference),
    }


def run_parquet(root: Path, expected: dict[str, Any]) -> None:
    for file_split, wanted in expected["objects_form"].items():
        data = open_dataset(root / "objects_form", split=wanted["split_meant"])
        rows = [data.table.reference(row) for row in data.rows.tolist()]
        samples = [
            {
                "ref_id": reference.id,
                "image_id": reference.picture.id,
                "sentences": [sentence.sent for sentence in reference.sentences],
                "mask": mask_facts(data.table.mask(row)),
            }
            for reference, row in zip(rows, data.rows.tolist(), strict=True)
        ]
        got = {"split_meant": wanted["split_meant"], "samples": samples}
        same(got, wanted, f"objects form {file_split}")
    for split, wanted in expected["lmms_form"].items():
        data = open_dataset(root / "lmms_form", split=split)
        assert all(data[index].frames.shape[0] == 1 for index in range(len(data)))
        got = [
            {
                "question_id": reference.id,
                "file_name": reference.picture.file,
                "answer": [sentence.sent for sentence in reference.sentences],
                "mask_of_the_single_polygon": mask_facts(data.table.mask(row)),
                "size_wh": [reference.picture.size[1], reference.picture.size[0]],
            }
            for row in data.rows.tolist()
            for reference in [data.table.reference(row)]
        ]
        told = [entry | {"question_id": int(entry["question_id"])} for entry in wanted]
        same(got, told, f"lmms form {split}")


def run_several(root: Path, expected: dict[str, Any]) -> None:
    facts = PUBLISHED["grefcoco"]
    place = Place(facts, root / facts.folder)
    assert refs_file(facts, place.folder) is not None
    table = open_table(place)
    got = {
        "refs": len(table),
        "sentences": len(table.arrays["sentence.id"]),
        "images": table.facts["pictures"],
        "annotations": table.facts["annotations"],
    }
    same(got, expected["counts"], "counts")
    same(list(table.splits), expected["available_splits"], "splits")
    for split, wanted in expected["splits"].items():
        same([_several(table, row) for row in table.query(split).tolist()], wanted, f"splits {split}")
    for split, wanted in expected["per_sentence_order"].items():
        data = open_dataset("grefcoco", split=split, root=root, options=ReadOptions(item="phrase"))
        got = []
        for index, example in enumerate(data):
            row = data.pairs(index)[0][0]
            assert example.masks.shape[0] == 1
            got.append(
                {
                    "image_id": table.reference(row).picture.id,
                    "ref_id": int(example.objects[0]),
                    "sent_id": int(example.ids[0]),
                    "raw": example.phrases[0],
                    "empty": bool(example.no_target[0]),
                    "objects": len(table.targets(row)),
                }
            )
        same(got, wanted, f"order {split}")


def _several(table: ReferenceTable, row: int) -> dict[str, Any]:
    reference = table.reference(row)
    kept = [item for item in reference.objects if not item.is_crowd]
    return {
        "ref_id": reference.id,
        "image_id": reference.picture.id,
        "ann_id": [-1] if reference.has_no_target else [item.id for item in reference.objects],
        "empty": reference.has_no_target,
        "sentences": [sentence.raw for sentence in reference.sentences],
        "sent_ids": [sentence.id for sentence in reference.sentences],
        "merged_mask": mask_facts(table.mask(row)),
        "boxes_xywh_of_kept": [list(item.box) for item in kept],
        "object_masks": [mask_facts(draw_union(item.parts, reference.picture.size)) for item in kept],
    }
