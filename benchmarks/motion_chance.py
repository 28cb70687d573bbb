"""What a guesser scores on motion phrases: it takes one of the things that the bare noun fits, at random.

    python benchmarks/motion_chance.py [--clips 200] [--size 32] [--frames 3] [--motions left right] [--twins 1.0]

The clips are those of `refseg evaluate CHECKPOINT scenes` with the same size, frames, motions and twins, two phrases each.
"right thing" is how often the guess is right. "J of cells" is the J of the exact answer as far as cells of 4 pixels can draw it, which no
mask of that stride is expected to pass.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.words import Name, groups_of_noun, names_of_anything, names_of_noun
from refseg.structures import Example

STRIDE = 4  # of ReferFormer's masks


def main() -> None:
    """Prints one line for every register, and one for all phrases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--motions", nargs="+", default=["left", "right"])
    parser.add_argument("--twins", type=float, default=1.0)
    asked = parser.parse_args()
    spec = ScenesSpec(
        size=asked.size,
        frames=asked.frames,
        phrases=2,
        registers={"mot": 1.0},
        split="val",
        count=asked.clips,
        motions=asked.motions,
        twins=asked.twins,
        sprites="none",
    )
    told: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for example in Scenes(spec):
        for register, chance, overlap in guesses(example):
            told[register].append((chance, overlap))
            told["all"].append((chance, overlap))
    for register, found in sorted(told.items(), key=lambda pair: (pair[0] == "all", pair[0])):
        chance, overlap = (100 * sum(part) / len(found) for part in zip(*found, strict=True))
        print(f"{register:6} {len(found):5} phrases  right thing {chance:5.1f} %  J of cells {overlap:5.1f}")


def guesses(example: Example) -> Iterator[tuple[str, float, float]]:
    """Of each phrase its register, the chance of one of so many things that its noun fits, and the J of the exact cells."""
    assert example.things is not None and example.registers is not None and example.masks is not None
    nouns = example.things.nouns.tolist()
    for phrase, register, masks in zip(example.phrases, example.registers, example.masks, strict=True):
        said = [name for name in all_names(nouns) if f" {name.one} " in f" {phrase} "]
        longest = max(said, key=lambda name: len(name.one))
        yield register, 1 / sum(noun in longest.possible for noun in nouns), overlap_of_cells(masks)


def all_names(nouns: list[int]) -> Iterator[Name]:
    """Every name of some of the nouns."""
    for noun in nouns:
        yield from names_of_noun()[noun]
        yield from groups_of_noun()[noun]
    yield from names_of_anything()


def overlap_of_cells(masks: Tensor) -> float:
    """J of masks [T, H, W] and what is left of them when each cell is on or off, drawn back as masks are."""
    cells = masks[None, :, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].float() - 0.5
    drawn = functional.interpolate(cells, masks.shape[-2:], mode="bilinear", align_corners=False)[0] > 0
    common, either = ((drawn & masks).sum((1, 2)), (drawn | masks).sum((1, 2)))
    return float(torch.where(either > 0, common / either.clamp(min=1), torch.ones(())).mean())


if __name__ == "__main__":
    main()
