"""Samples a second of training: the data alone, the model alone, both; and of one and two processes. Run it on a quiet machine.

    python benchmarks/training.py [--case NAME]... [--seconds 12] [--rounds 3] [--device cpu] [--folder DIR] [--no-scaling]

Everything is measured inside `refseg train` itself: its own loop, with its feed drawn from and no model behind it (data), with
a few batches repeated (model), or as it is (both). The bar: both together reach 90 % of the slower of the two. Every
measurement is a process of its own; of several rounds, taken in turn, the best counts.

Cases are packaged recipes at their own batch and augmentation. The RefCOCO of the cases is made up, in the published files:
pictures of 640x480 and 480x640 as JPEG, polygons, three phrases an object. On a CPU the models of the cases about RefCOCO have
toy widths: at real width a step takes tens of seconds there, and no loader could be too slow. Workers are those of the recipe,
at most one for each core that the training process leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BAR = 0.9
PICTURES, OBJECTS = 400, 3  # of the made data set
WARM = 3  # steps before the clock runs, beside the batches that stand ready
REPEATED = 4  # batches that the model alone sees again and again
PLAIN = ("init=", "run.evaluate_examples=0", "run.log_every=5", "run.save_every=1000000000")


@dataclass(frozen=True)
class Case:
    """A packaged recipe, and what differs from it here."""

    recipe: str
    overrides: tuple[str, ...]
    shows: str


CASES = {
    "scenes": Case("scout/scenes", (), "scout base on scenes, as its recipe trains"),
    "lgformer": Case(
        "lgformer/refcoco",
        ("variant=debug", "data.frame={size=480}", "run.precision=float32"),
        "LGFormer's loading (480x480), toy widths",
    ),
    "vlformer": Case(
        "vlformer/refcoco-r50",
        ("variant=debug", "run.precision=float32"),
        "VLFormer's loading (resize, colour, rotate, redraw), toy widths",
    ),
    "fast": Case(
        "lgformer/refcoco",
        ("variant=debug", "data.frame={size=64}", "run.precision=float32"),
        "640x480 JPEGs for a model as fast as its data (64x64)",
    ),
}
PHASES = ("data", "model", "both")


def main() -> None:
    """Runs every measurement in a process of its own and prints two tables in Markdown."""
    options = _options()
    if options.phase:
        print(json.dumps(_measure(options)))
        return
    from refseg.evaluation.machine import this_machine

    names = options.case or list(CASES)
    print(this_machine(options.device).sentence(), flush=True)
    with tempfile.TemporaryDirectory() as place:
        options.folder = options.folder or Path(place)
        make(options.folder)
        rates = {name: _rates(name, options) for name in names}
        print(_table(rates), flush=True)
        if not options.no_scaling:
            print(_scaling_table({name: _scaling(name, options, rates[name]) for name in names}))
    print(this_machine(options.device).sentence())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=12.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the made data set is kept and used again")
    parser.add_argument("--workers", type=int, help="instead of the recipe's")
    parser.add_argument("--no-scaling", action="store_true")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=0, help=argparse.SUPPRESS)  # instead of seconds
    return parser.parse_args()


def _table(rates: dict[str, dict[str, float]]) -> str:
    lines = [
        "| case | workers | data alone | model alone | both | of the slower |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rates.items():
        share = row["both"] / min(row["data"], row["model"])
        told = f"{share:.0%}" if share >= BAR else f"{share:.0%} (bar: {BAR:.0%})"
        cells = [f"{row[phase]:.1f}" for phase in PHASES]
        lines.append(f"| {CASES[name].shows} | {row['workers']:.0f} | {' | '.join(cells)} | {told} |")
    return "\n".join(["", "Samples a second:", "", *lines, ""])


def _scaling_table(rates: dict[str, tuple[float, float]]) -> str:
    lines = ["| case | 1 process | 2 processes | factor |", "|---|---|---|---|"]
    for name, (one, two) in rates.items():
        lines.append(f"| {CASES[name].shows} | {one:.1f} | {two:.1f} | {two / one:.2f} |")
    heading = "Samples a second of training, one thread a process, each preparing its own batches:"
    return "\n".join(["", heading, "", *lines, ""])


def _rates(name: str, options: argparse.Namespace) -> dict[str, float]:
    """The best rate of every phase; phases take turns, so that no one has the quiet minutes to itself."""
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        for phase in PHASES:
            found = _child([*_words(name, phase, options)], threads=None)
            best[phase] = max(best.get(phase, 0.0), found["rate"])
            best["workers"] = found["workers"]
    return best


def _scaling(name: str, options: argparse.Namespace, rates: dict[str, float]) -> tuple[float, float]:
    """Samples a second of one process and of two, with as many examples each."""
    batch = _run(name, options).run.batch_size
    calls = max(8, round(options.seconds * rates["both"] / batch / 2))
    rows = []
    for processes in (1, 2):
        best = 0.0
        for _ in range(options.rounds):
            words = [*_words(name, "both", options), "--workers", "0", "--calls", str(calls)]
            best = max(best, _child(words, threads=1, processes=processes)["rate"] * processes)
        rows.append(best)
    return rows[0], rows[1]


def _words(name: str, phase: str, options: argparse.Namespace) -> list[str]:
    words = ["--phase", phase, "--case", name, "--seconds", str(options.seconds)]
    words += ["--device", options.device, "--folder", str(options.folder)]
    return words + (["--workers", str(options.workers)] if options.workers is not None else [])


def _child(words: list[str], *, threads: int | None, processes: int = 1) -> dict[str, float]:
    """One measurement in a fresh process, or in several that train together."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads)}
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*start, __file__, *words], capture_output=True, text=True, env=environment, check=False
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not told:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.JSONDecoder().raw_decode(told[0])[0]  # of several processes, which may share a line


class _Over(BaseException):
    """Enough was measured; no mistake, and nothing that a run could catch."""


class _Watched:
    """A feed that notes when it was asked for a batch, and ends the run when enough was seen."""

    def __init__(self, feed: Any, options: argparse.Namespace, workers: int) -> None:
        self.feed, self.seconds, self.calls = feed, options.seconds, options.calls
        self.ready = 4 * workers  # batches that stand ready and were made before the clock ran
        self.first = WARM + (0 if options.phase == "model" else self.ready)
        self.asked: list[float] = []
        self.kept: list[Any] = []
        self.repeats = options.phase == "model"

    def __next__(self) -> Any:
        self.asked.append(time.perf_counter())
        steps = len(self.asked) - 1 - self.first
        if steps > 0 and (
            steps >= self.calls if self.calls else self.asked[-1] - self.asked[self.first] > self.seconds
        ):
            raise _Over
        if not self.repeats:
            return next(self.feed)
        if len(self.kept) < REPEATED:
            self.kept.append(next(self.feed))
        return self.kept[len(self.asked) % len(self.kept)]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.feed, name)

    @property
    def rate(self) -> float:
        """Batches a second."""
        return (len(self.asked) - 1 - self.first) / (self.asked[-1] - self.asked[self.first])


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """The rate of one phase, in samples a second of this process."""
    import torch

    from refseg import distributed
    from refseg.training import loop

    run = _run(options.case[0], options)
    device, watched = distributed.start(torch.device(options.device)), []
    real = loop.batches

    def batches(*arguments: Any, **named: Any) -> _Watched:
        watched.append(_Watched(real(*arguments, **named), options, run.data.workers))
        if options.phase == "data":
            for _ in watched[0]:
                pass
        return watched[0]

    loop.batches = batches  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Over):
        loop.train(run, _folder(folder), device=device, is_quiet=True)
    return {"rate": watched[0].rate * run.run.batch_size, "workers": float(run.data.workers)}


def _folder(place: str) -> Path:
    """One folder for all processes."""
    from refseg import distributed

    folder = Path(distributed.broadcast(place))
    folder.mkdir(exist_ok=True)
    return folder


def _run(name: str, options: argparse.Namespace) -> Any:
    """The recipe of a case, read as `refseg train` reads it; long enough that its end is never seen."""
    from refseg.training.recipe import find_recipe, read_recipe

    case, cores = (
        CASES[name],
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    overrides = [*PLAIN, *case.overrides]
    if "refcoco" in case.recipe:
        overrides += [
            f"data.root={options.folder}",
            "data.exclude_images_of=[]",
            "run.steps=100000",
            "run.evaluate_every=0",
        ]
        overrides += [
            "run.save_every=1000000000",
            "schedule.kind=constant",
            "schedule.drops=[]",
            "run.epoch_ends=run_on",
        ]
    run = read_recipe(find_recipe(case.recipe), overrides)
    workers = min(run.data.workers, max(1, (cores or 1) - 1)) if options.workers is None else options.workers
    return run.model_copy(update={"data": run.data.model_copy(update={"workers": workers})})


def make(root: Path) -> None:
    """Writes the made RefCOCO below `root`, unless it is there."""
    folder, pictures = root / "refcoco", root / "images" / "train2014"
    if (folder / "refs(unc).p").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    dice = random.Random(0)
    sizes = [(640, 480) if number % 4 else (480, 640) for number in range(PICTURES)]
    for number, size in enumerate(sizes):
        _draw(pictures / f"COCO_train2014_{number + 1:012d}.jpg", size, number)
    images = [
        {"id": n + 1, "file_name": f"COCO_train2014_{n + 1:012d}.jpg", "width": size[0], "height": size[1]}
        for n, size in enumerate(sizes)
    ]
    annotations = [_annotation(n, sizes[n % PICTURES], dice) for n in range(PICTURES * OBJECTS)]
    categories = [{"id": n, "name": f"thing {n}", "supercategory": "thing"} for n in range(1, 81)]
    instances = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "info": {},
        "licenses": [],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    references = [_reference(annotation, dice) for annotation in annotations]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))


def _draw(path: Path, size: tuple[int, int], number: int) -> None:
    """Noise at all scales, which compresses about as photographs do (some 100 kB)."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(number)
    picture = np.zeros((size[1], size[0], 3), np.float32)
    for scale in (2, 4, 8, 16, 32, 64, 128):
        coarse = noise.normal(0, 3 * scale**0.6, (size[1] // scale + 2, size[0] // scale + 2, 3)).astype(
            np.float32
        )
        picture += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), np.clip(picture + 120, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])


def _annotation(number: int, size: tuple[int, int], dice: random.Random) -> dict[str, Any]:
    from math import cos, pi, sin

    x, y = dice.uniform(150, size[0] - 150), dice.uniform(150, size[1] - 150)
    points = dice.randint(20, 40)
    radii = [dice.uniform(40, 110) for _ in range(points)]
    turns = [2 * pi * k / points for k in range(points)]
    shape = [round(v, 2) for r, t in zip(radii, turns, strict=True) for v in (x + r * cos(t), y + r * sin(t))]
    left, top, right, bottom = min(shape[::2]), min(shape[1::2]), max(shape[::2]), max(shape[1::2])
    return {
        "id": number + 1,
        "image_id": number % PICTURES + 1,
        "category_id": number % 80 + 1,
        "segmentation": [shape],
        "bbox": [left, top, right - left, bottom - top],
        "area": 10_000.0,
        "iscrowd": 0,
    }


def _reference(annotation: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    number = annotation["id"] - 1
    words = ("left", "right", "man", "woman", "red", "the", "near", "dog", "tall", "cup")
    texts = [" ".join(dice.choice(words) for _ in range(dice.randint(2, 5))) for _ in range(3)]
    sentences = [
        {"tokens": text.split(), "raw": text, "sent": text, "sent_id": 3 * number + k}
        for k, text in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "file_name": f"COCO_train2014_{annotation['image_id']:012d}_{number}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        "split": "train",
    }


if __name__ == "__main__":
    main()
