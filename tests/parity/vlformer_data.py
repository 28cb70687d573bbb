"""Cases of VLFormer's data: training transforms with given draws, REFER to the per-sentence form, records of both readers."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.case import Case, Comparison
from refseg.data.augment import steps
from refseg.data.collate import content_boxes
from refseg.data.formats.reference_table import ReferenceTable
from refseg.data.readers import coco_style
from refseg.data.readers.refer import open_refer
from refseg.data.readers.vlformer_video import VideoSentences, stored_segmentation
from refseg.structures import Example, Placement

FLIPPED_PIXELS = 0.002  # share of mask pixels, by the case's own note


def run_conversion(case: Case) -> None:
    """REFER files written as given, indexed, and brought to the per-sentence form of each split."""
    with tempfile.TemporaryDirectory() as place:
        for name, files in case.manifest["inputs"]["files"].items():
            table, stored = _opened(Path(place) / name, files)
            wanted = case.manifest["outputs"]["files"][name]
            for file, expected in wanted.items():
                split = file.removesuffix(".json").rpartition("_")[2]
                got = coco_style.coco_form(table, split, name=name, segmentations=stored)
                assert got == expected, f"{case.id}: {name}/{file} differs"


def _opened(folder: Path, files: dict[str, Any]) -> tuple[ReferenceTable, dict[int, Any]]:
    """The index of a folder of REFER, and segmentations as stored, by annotation."""
    folder.mkdir()
    [refs] = (name for name in files if name != "instances.json")
    (folder / refs).write_bytes(pickle.dumps(files[refs], protocol=2))
    (folder / "instances.json").write_text(json.dumps(files["instances.json"]))
    table = ReferenceTable(open_refer(folder, folder / refs, several=False))
    return table, {a["id"]: a["segmentation"] for a in files["instances.json"]["annotations"]}


IMAGES = "IMG"  # what the case calls the folder of pictures
BOX_MODE = 1  # x, y, width, height


def run_records(case: Case) -> None:
    """The published records, told by the readers: of the per-sentence form, and of videos with and without masks."""
    expected = case.manifest["outputs"]["records"]
    with tempfile.TemporaryDirectory() as place:
        got = {
            "refcoco_train": _sentence_records(case, Path(place)),
            "ref_ytvos_train": _video_records(case, Path(place) / "train.json"),
            "ref_ytvos_val": _video_records(case, Path(place) / "valid.json"),
        }
    for name, records in expected.items():
        assert got[name] == records, f"{case.id}: {name} differs"


def _sentence_records(case: Case, folder: Path) -> list[dict[str, Any]]:
    """`instances_refcoco_train.json` of the case beside this one, written and read."""
    folders = (case.path.parent, Path(__file__).parent / "cases" / "vlformer")
    manifests = (folder / "post-convert" / "manifest.json" for folder in folders)
    beside = json.loads(next(path for path in manifests if path.exists()).read_text())
    path = folder / "instances_refcoco_train.json"
    path.write_text(json.dumps(beside["outputs"]["files"]["refcoco"][path.name]))
    table = ReferenceTable(coco_style.open_coco_form(path, "train"))
    ranks = {number: rank for rank, number in enumerate(sorted(table.categories))}
    records = []
    for row in range(len(table)):
        reference = table.reference(row)
        [sentence] = reference.sentences
        height, width = reference.picture.size
        annotations = []
        for stored in reference.objects:
            parts = tuple(coco_style.training_parts(stored))
            if parts:
                trained = dataclasses.replace(stored, parts=parts)
                annotations.append(
                    _annotation(
                        stored.is_crowd,
                        stored.box,
                        ranks[stored.category],
                        stored.id,
                        coco_style.stored_segmentation(trained, reference.picture.size),
                    )
                )
        records.append(
            {
                "file_name": f"{IMAGES}/{reference.picture.file}",
                "height": height,
                "width": width,
                "expression": sentence.sent,
                "id": reference.id,
                "exp_id": reference.id,
                "image_id": reference.id,
                "annotations": annotations,
            }
        )
    return records


def _video_records(case: Case, path: Path) -> list[dict[str, Any]]:
    path.write_text(json.dumps(case.manifest["inputs"]["ref_ytvos.json"]))
    data = VideoSentences(path, pictures=Path(IMAGES))
    return [
        {
            "id": record.id,
            "file_names": [str(data.pictures / file) for file in record.files],
            "height": record.size[0],
            "width": record.size[1],
            "length": len(record.files),
            "video_id": record.video,
            "annotations": [
                [
                    _annotation(
                        record.is_crowd,
                        mask.box,
                        record.category,
                        record.object,
                        stored_segmentation(mask, record.size),
                    )
                ]
                for mask in record.masks
            ],
            "expression": record.phrase,
            "exp_id": record.number,
            "video_name": record.name,
        }
        for record in data.records
    ]


def _annotation(is_crowd: bool, box, category: int, number: int, segmentation: Any) -> dict[str, Any]:
    return {
        "iscrowd": int(is_crowd),
        "bbox": list(box),
        "category_id": category,
        "id": number,
        "segmentation": segmentation,
        "bbox_mode": BOX_MODE,
    }


def run_augmentation(case: Case) -> None:
    """The shipped recipe's steps, fed with the recorded draws: each must ask for the very range that was recorded."""
    from parity.vlformer import recipe

    sizes = {"short": tuple(case.config["min_size_train"]), "longest": case.config["max_size_train"]}
    augment = [
        dataclasses.replace(step, **sizes) if step.step == "resize" else step
        for step in recipe().data.augment
    ]
    computed: dict[str, Any] = {}
    for i, image in case.numbered("in/image"):
        example = _example(case, i, image)
        with _recorded(case.manifest["inputs"]["draws"][i]):
            for step in augment:
                example = step(example, torch.Generator())
        computed |= _augmented(case, i, example)
    Comparison(case, computed).check()


def _example(case: Case, i: int, image: torch.Tensor) -> Example:
    polygons = case.manifest["inputs"].get(f"polygons{i}")
    outlines = ((None,),)  # a run-length code: the mask itself is moved
    if polygons is None:
        mask = case.tensor(f"in/mask{i}").bool()
    else:
        parts = tuple(torch.tensor(part, dtype=torch.float64).view(-1, 2) for part in polygons)
        outlines = ((parts,),)
        mask = torch.ones(image.shape[:2], dtype=torch.bool)  # drawn anew at the end; nothing of it is left
    return Example(
        "made in the test", image.permute(2, 0, 1)[None], ("a",), mask[None, None], outlines=outlines
    )


class _recorded:
    """The dice of the steps replaced by recorded values; a range that differs from the recorded one fails."""

    def __init__(self, draws: list[dict[str, Any]]) -> None:
        self.draws = iter(draws[1:])  # the first is the choice of the frame, of which there is one
        self.before = {name: getattr(steps, name) for name in ("draw_between", "draw_whole")}

    def __enter__(self) -> None:
        steps.draw_between, steps.draw_whole = self._between, self._whole

    def __exit__(self, *_: object) -> None:
        for name, function in self.before.items():
            setattr(steps, name, function)

    def _between(self, _generator: torch.Generator, low: float, high: float) -> float:
        draw = next(self.draws)
        assert (draw["draw"], draw["from"]) == ("uniform", [low, high]), f"{low} to {high}, recorded {draw}"
        return draw["value"]

    def _whole(self, _generator: torch.Generator, low: int, high: int) -> int:
        draw = next(self.draws)
        assert draw["draw"] == "choice"
        assert high - low + 1 == len(draw["from"])
        return draw["from"].index(draw["value"])


def _augmented(case: Case, i: int, example: Example) -> dict[str, Any]:
    size = tuple(example.frames.shape[-2:])
    mask = example.masks[0]  # [1, H, W]
    boxes, seen = content_boxes(example.masks, Placement(size, size, (0, 0), size))
    extent = torch.tensor([size[1], size[0]] * 2)
    x, y, w, h = (boxes[0] * extent).unbind(-1)
    expected = np.unpackbits(case.arrays[f"out/mask_bits{i}"])[: mask.numel()].astype(bool)
    few = np.mean(expected != mask.numpy().flatten()) <= FLIPPED_PIXELS
    ids = case.arrays[f"out/gt_ids{i}"]
    return {
        f"out/size{i}": torch.tensor(size),
        f"out/image{i}": example.frames[0, :, ::4, ::4],
        f"out/mask_shape{i}": torch.tensor(mask.shape),
        f"out/mask_bits{i}": case.arrays[f"out/mask_bits{i}"] if few else np.packbits(mask.numpy()),
        f"out/boxes{i}": torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1),
        f"out/gt_ids{i}": np.where(seen[0].numpy(), np.where(ids == -1, 0, ids), -1),
    }
