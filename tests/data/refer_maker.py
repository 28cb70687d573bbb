"""Small data sets in the form of REFER, made in code."""

import json
import pickle
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 20, 14


def records(count=4, splits=("train", "val")):
    """Records 0..count-1, two to a picture, one object and two sentences each."""
    return [
        {
            "ref_id": n,
            "ann_id": 100 + n,
            "image_id": n // 2,
            "category_id": 1 + n % 2,
            "split": splits[n % len(splits)],
            "file_name": "no-file.jpg",
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {
                    "sent_id": 2 * n + k,
                    "raw": f"Thing {n}, {k}!",
                    "sent": f"thing {n} {k}",
                    "tokens": ["thing", str(n), str(k)],
                }
                for k in range(2)
            ],
        }
        for n in range(count)
    ]


def instances(count=4):
    """Pictures and objects for `records`; every object is a rectangle of its own."""
    return {
        "info": {"description": "made up"},
        "licenses": [],
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH}
            for n in range((count + 1) // 2)
        ],
        "annotations": [
            {
                "id": 100 + n,
                "image_id": n // 2,
                "category_id": 1 + n % 2,
                "iscrowd": 0,
                "area": 12.5,
                "bbox": [n, 1, 5, 4],
                "segmentation": [[n, 1, n + 5, 1, n + 5, 5, n, 5]],
            }
            for n in range(count)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write(
    root: Path, refs=None, things=None, *, name="refcoco", split_by="unc", protocol=2, pictures=True
) -> Path:
    """Writes the data set below `root`; returns its folder."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    refs = records() if refs is None else refs
    things = instances(len(refs)) if things is None else things
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    (folder / "instances.json").write_text(json.dumps(things))
    if pictures:
        place = root / "images" / "train2014"
        place.mkdir(parents=True, exist_ok=True)
        for image in things["images"]:
            Image.new("RGB", (image["width"], image["height"])).save(place / image["file_name"])
    return folder
