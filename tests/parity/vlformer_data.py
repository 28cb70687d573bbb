"""Cases of VLFormer's data: training transforms with given draws, REFER to the per-sentence form, records of both readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.case import Case, Comparison, NotBuilt
from refseg.data import steps
from refseg.data.collate import content_boxes
from refseg.structures import Example, Placement

FLIPPED_PIXELS = 0.002  # share of mask pixels, by the case's own note


def run_conversion(case: Case) -> None:
    raise NotBuilt(f"the road of {case.id}")


def run_records(case: Case) -> None:
    raise NotBuilt(f"the road of {case.id}")


def run_augmentation(case: Case) -> None:
    """The shipped recipe's steps, fed with the recorded draws: each must ask for the very range that was recorded."""
    from parity.vlformer import recipe

    augment = recipe().data.augment
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
    outlines = None
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
        self.before = {name: getattr(steps, name) for name in ("between", "whole")}

    def __enter__(self) -> None:
        steps.between, steps.whole = self._between, self._whole

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
