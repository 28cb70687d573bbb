"""What opening RefCOCO and drawing its masks costs, ours beside the plain published way, each in a process of its own.

python benchmarks/data.py [FOLDER]

The data set is made up, at the real size: 19,994 pictures, 196,771 annotations of about 30 points, 50,000 references,
142,210 sentences. It is written to FOLDER (default: a temporary one), and used again where it stands there already.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURES, ANNOTATIONS, REFERENCES, SENTENCES = 19_994, 196_771, 50_000, 142_210
HEIGHT, WIDTH = 480, 640
POLYGONS = 3_000  # that differ; the others repeat them under other ids
MASKS = 4_000  # drawn to measure the rate
SPLITS = (("train", 42_404), ("val", 3_811), ("testA", 1_975), ("testB", 1_810))


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--step":
        print(json.dumps(STEPS[sys.argv[2]](Path(sys.argv[3]))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else place)
        make(folder)
        for index in (folder / "refcoco").glob(".*.refseg-index"):
            index.unlink()
        rows = {name: step(name, folder) for name in STEPS}
    print(report(rows))
    print("\nJ and F of masks at 480x854, frames a second of one core:")
    subprocess.run([sys.executable, str(Path(__file__).with_name("overlap_contour.py"))], check=True)


def report(rows: dict[str, dict[str, float]]) -> str:
    """The table of all steps."""
    from refseg.evaluation.machine import this_machine

    lines = [f"{'':58}{'CPU s':>8}{'grows by MB':>13}{'peak MB':>9}{'a second':>10}"]
    for name, row in rows.items():
        rate = f"{row['rate']:10,.0f}" if "rate" in row else ""
        lines.append(f"{TITLES[name]:58}{row['cpu']:8.2f}{row['grown']:13.0f}{row['peak']:9.0f}{rate}")
    return "\n".join([*lines, this_machine().sentence()])


def step(name: str, folder: Path) -> dict[str, float]:
    """One measurement in a fresh process."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, __file__, "--step", name, str(folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def make(root: Path) -> None:
    """Writes the data set, unless it is there."""
    folder = root / "refcoco"
    if (folder / "refs(unc).p").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(0)
    shapes = [_polygon(dice) for _ in range(POLYGONS)]
    with (folder / "instances.json").open("w") as file:
        file.write('{"info":{},"licenses":[],"images":[')
        file.write(
            ",".join(
                f'{{"license":1,"file_name":"COCO_train2014_{n:012d}.jpg","coco_url":"http://images.cocodataset.org/{n}",'
                f'"height":{HEIGHT},"width":{WIDTH},"date_captured":"2013-11-14 17:02:52","flickr_url":"http://x/{n}","id":{n}}}'
                for n in range(1, PICTURES + 1)
            )
        )
        file.write('],"annotations":[')
        for n in range(ANNOTATIONS):
            shape = shapes[n % POLYGONS]
            file.write(
                f'{"," if n else ""}{{"segmentation":[{shape}],"area":1234.5678,"iscrowd":0,"image_id":{n % PICTURES + 1},'
                f'"bbox":[12.34,56.78,90.12,34.56],"category_id":{n % 80 + 1},"id":{n + 1}}}'
            )
        names = ",".join(f'{{"supercategory":"thing","id":{n},"name":"thing {n}"}}' for n in range(1, 81))
        file.write(f'],"categories":[{names}]}}')
    (folder / "refs(unc).p").write_bytes(pickle.dumps(_references(dice), protocol=2))


def _polygon(dice: random.Random) -> str:
    from math import cos, pi, sin

    x, y = dice.uniform(150, WIDTH - 150), dice.uniform(120, HEIGHT - 120)
    points = dice.randint(20, 40)
    radii = [dice.uniform(40, 110) for _ in range(points)]
    turns = [2 * pi * k / points for k in range(points)]
    return json.dumps(
        [round(v, 2) for r, t in zip(radii, turns, strict=True) for v in (x + r * cos(t), y + r * sin(t))]
    )


def _references(dice: random.Random) -> list[dict[str, Any]]:
    words = [f"word{n}" for n in range(3_000)] + ["left", "right", "man", "woman", "red", "the"] * 200
    splits = [name for name, count in SPLITS for _ in range(count)]
    extra = SENTENCES - 2 * REFERENCES  # so many references have a third sentence
    records, number = [], 0
    for ref in range(REFERENCES):
        sentences = []
        for _ in range(3 if ref < extra else 2):
            tokens = [dice.choice(words) for _ in range(dice.randint(2, 6))]
            text = " ".join(tokens)
            sentences.append({"tokens": tokens, "raw": text, "sent_id": number, "sent": text})
            number += 1
        # One object in four is referred to, spread over all pictures.
        annotation = ref * 3 + ref // PICTURES
        records.append(
            {
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "file_name": f"COCO_train2014_{annotation % PICTURES + 1:012d}_{annotation}.jpg",
                "ann_id": annotation + 1,
                "ref_id": ref,
                "image_id": annotation % PICTURES + 1,
                "split": splits[ref],
                "sentences": sentences,
                "category_id": annotation % 80 + 1,
            }
        )
    return records


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds and growth in memory of some work; imports are done before."""
    import numpy  # noqa: F401
    import torch
    from pycocotools import mask  # noqa: F401

    torch.set_num_threads(1)
    before, start = _resident(), os.times()
    kept = work()
    end = os.times()
    grown = _resident() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = end.user + end.system - start.user - start.system
    del kept
    return {"cpu": cpu, "grown": grown, "peak": peak}


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def plain(folder: Path) -> dict[str, Any]:
    """The plain way of the published readers: both files whole, and dicts from ids to their entries."""
    with (folder / "refcoco" / "refs(unc).p").open("rb") as file:
        references = pickle.load(file)
    with (folder / "refcoco" / "instances.json").open() as file:
        instances = json.load(file)
    annotations = {entry["id"]: entry for entry in instances["annotations"]}
    of_image: dict[int, list[Any]] = {}
    for entry in instances["annotations"]:
        of_image.setdefault(entry["image_id"], []).append(entry)
    images = {entry["id"]: entry for entry in instances["images"]}
    sentences = {s["sent_id"]: s for record in references for s in record["sentences"]}
    tokens = {number: sentence["tokens"] for number, sentence in sentences.items()}
    by_id = {record["ref_id"]: record for record in references}
    return {"refs": by_id, "anns": annotations, "of_image": of_image, "images": images, "tokens": tokens}


def plain_masks(folder: Path) -> dict[str, float]:
    """Every part decoded and added up, as the published mask function does."""
    import numpy as np
    from pycocotools import mask as coco

    held = plain(folder)
    records = [r for r in held["refs"].values() if r["split"] == "train"][:MASKS]

    def draw() -> None:
        for record in records:
            segmentation = held["anns"][record["ann_id"]]["segmentation"]
            codes = coco.frPyObjects(segmentation, HEIGHT, WIDTH)
            np.sum(coco.decode(codes), axis=2).astype(np.uint8)

    row = measured(draw)
    return row | {"rate": MASKS / row["cpu"]}


def ours(folder: Path) -> dict[str, float]:
    import refseg.data.reference_images  # noqa: F401

    from refseg.data.catalog import open_dataset

    return measured(lambda: open_dataset("refcoco", split="train", root=folder))


def our_masks(folder: Path) -> dict[str, float]:
    from refseg.data.catalog import open_dataset
    from refseg.data.dataset import ReadOptions

    data = open_dataset("refcoco", split="train", root=folder, options=ReadOptions(item="object"))
    data.masks(0)

    def draw() -> None:
        for index in range(MASKS):
            data.masks(index)

    row = measured(draw)
    return row | {"rate": MASKS / row["cpu"]}


STEPS: dict[str, Callable[[Path], dict[str, float]]] = {
    "plain": lambda folder: measured(lambda: plain(folder)),
    "first": ours,
    "again": ours,
    "plain_masks": plain_masks,
    "masks": our_masks,
}
TITLES = {
    "plain": "open RefCOCO, plain (json.load, pickle.load, dicts)",
    "first": "open RefCOCO, refseg, the first time (builds the index)",
    "again": "open RefCOCO, refseg, from then on",
    "plain_masks": f"{MASKS:,} masks {HEIGHT}x{WIDTH}, plain (parts decoded, summed)",
    "masks": f"{MASKS:,} union masks {HEIGHT}x{WIDTH}, refseg",
}


if __name__ == "__main__":
    main()
