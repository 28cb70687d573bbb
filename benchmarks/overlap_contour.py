"""J and F of masks at 480x854: ours beside the way of the published tool, in one run, frames a second of one core.

    python benchmarks/overlap_contour.py [--davis FOLDER] [--json]

The plain functions below do what the tool of DAVIS 2017 does, step by step: whole frames, boolean arithmetic for J, a disk
as the kernel of a dilation for F. Both ways must give the same numbers, or the run ends. CPU time is that of the process; the
best of several rounds counts.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from refseg.metrics import contour

SIZE = (480, 854)
FRAMES = 40
ROUNDS = 5
MATCHED_FRAMES = 4
PUBLISHED = {"J": 372.0, "F": 138.0}  # frames a second of one core, as measured for the project's aims
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Rate:
    """One line of the table."""

    masks: str
    metric: str
    plain: float  # frames a second
    ours: float

    @property
    def times(self) -> float:
        return self.ours / self.plain


def plain_region(answer: np.ndarray, target: np.ndarray) -> float:
    """J as published: sums of boolean arrays; without the map of void pixels, which makes the tool slower still."""
    answer, target = answer.astype(bool), target.astype(bool)
    shared = np.sum(answer & target, axis=(-2, -1))
    union = np.sum(answer | target, axis=(-2, -1))
    return 1.0 if np.isclose(union, 0) else float(shared / union)


def plain_contour(answer: np.ndarray, target: np.ndarray) -> float:
    """F as published: the boundaries of whole frames, each dilated by a disk."""
    radius = math.ceil(0.008 * math.hypot(*target.shape))
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(np.uint8)
    ours, theirs = plain_boundary(answer), plain_boundary(target)
    near_theirs = cv2.dilate(theirs.astype(np.uint8), disk)
    near_ours = cv2.dilate(ours.astype(np.uint8), disk)
    lengths = np.sum(ours), np.sum(theirs)
    if 0 in lengths:
        return float(lengths == (0, 0))
    precision = np.sum(ours * near_theirs) / lengths[0]
    recall = np.sum(theirs * near_ours) / lengths[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their neighbours to the east, south and south-east."""
    east, south, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1], south[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ east) | (mask ^ south) | (mask ^ both)
    edge[-1], edge[:, -1] = mask[-1] ^ east[-1], mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge


def drawn(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Answers and targets [T, H, W] of an object that moves, or of noise all over the frame."""
    generator = np.random.default_rng(0)
    if kind == "noise":
        answers = generator.random((FRAMES, *SIZE)) < 0.5
        return answers, answers ^ (generator.random(answers.shape) < 0.1)
    share = {"small": 0.01, "object": 0.08, "large": 0.5}[kind]
    pairs = [_object(share, frame, generator) for frame in range(FRAMES)]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def _object(share: float, frame: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A star of some share of the frame, and an answer that is a little off."""
    radius = math.sqrt(share * SIZE[0] * SIZE[1] / math.pi)
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    lengths = radius * (1 + 0.25 * np.sin(5 * angles + frame / 5))
    centre = (SIZE[1] / 2 + 2 * frame - FRAMES, SIZE[0] / 2)
    masks = []
    for blur in (0.0, 0.03):
        reach = lengths * (1 + blur * generator.standard_normal(len(angles)))
        points = np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], axis=1)
        mask = np.zeros(SIZE, dtype=np.uint8)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], (1,))
        masks.append(mask > 0)
    return masks[1], masks[0]


def measured(masks: str, answers: np.ndarray, targets: np.ndarray) -> Iterator[Rate]:
    """The rates of J and F on some masks."""
    ways: dict[str, tuple[Callable[[], list[float]], Callable[[], list[float]]]] = {
        "J": (
            lambda: [plain_region(*pair) for pair in zip(answers, targets, strict=True)],
            lambda: [contour.region_similarity(*pair) for pair in zip(answers, targets, strict=True)],
        ),
        "F": (
            lambda: [plain_contour(*pair) for pair in zip(answers, targets, strict=True)],
            lambda: contour.contour_accuracies(answers, targets).tolist(),
        ),
    }
    for metric, (plain, ours) in ways.items():
        np.testing.assert_allclose(ours(), plain(), rtol=0, atol=1e-12, err_msg=f"{metric} of {masks}")
        yield Rate(masks, metric, len(answers) / _seconds(plain), len(answers) / _seconds(ours))


def matched() -> Rate:
    """Pairs a second of the unsupervised protocol: 20 proposals, 3 objects, every pair in every frame."""
    generator = np.random.default_rng(1)
    answers, targets = (np.zeros((MATCHED_FRAMES, *SIZE), dtype=np.uint8) for _ in range(2))
    for maps, count in ((answers, 20), (targets, 3)):
        for number in range(1, count + 1):
            top, left, side = (
                generator.integers(0, 350),
                generator.integers(0, 700),
                generator.integers(40, 150),
            )
            maps[:, top : top + side, left : left + side] = number

    def plain() -> float:
        fit = np.zeros((20, 3))
        for answer, target in zip(answers, targets, strict=True):
            for p, o in np.ndindex(fit.shape):
                pair = answer == p + 1, target == o + 1
                fit[p, o] += (plain_region(*pair) + plain_contour(*pair)) / (2 * MATCHED_FRAMES)
        rows, columns = linear_sum_assignment(-fit)
        return float(fit[rows, columns].mean())

    def ours() -> float:
        return contour.unsupervised(answers, targets).mean

    np.testing.assert_allclose(ours(), plain(), rtol=0, atol=1e-12)
    pairs = 60 * MATCHED_FRAMES
    return Rate("20 props", "JF", pairs / _seconds(plain, 2), pairs / _seconds(ours))


def _seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def rates(davis: Path | None = None) -> list[Rate]:
    """All lines of the table; real masks where a folder with answers and targets is given."""
    lines = [line for kind in ("object", "small", "large", "noise") for line in measured(kind, *drawn(kind))]
    lines.append(matched())
    if davis is not None:
        lines += measured("davis", *_read(davis))
    return lines


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    answers, targets = (
        np.stack([np.array(Image.open(file)) == 1 for file in sorted((folder / part).glob("*.png"))])
        for part in ("predictions/osvos/car-shadow", "train/Annotations/car-shadow")
    )
    return answers, targets


def table(lines: list[Rate]) -> str:
    """The lines for people."""
    text = [f"{'masks':8} {'':2} {'plain/s':>9} {'ours/s':>9} {'times':>7}"]
    text += [
        f"{line.masks:8} {line.metric:2} {line.plain:9.0f} {line.ours:9.0f} {line.times:7.1f}"
        for line in lines
    ]
    return "\n".join(
        [*text, f"aim: three times {PUBLISHED['J']:.0f} (J) and {PUBLISHED['F']:.0f} (F) frames/s"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--davis", type=Path, help="a folder with predictions/osvos and train/Annotations")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    lines = rates(given.davis)
    print(
        json.dumps([asdict(line) | {"times": line.times} for line in lines]) if given.json else table(lines)
    )


if __name__ == "__main__":
    main()
