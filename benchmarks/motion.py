"""Which of two twins a checkpoint answers with, what guessing gives, and what cells of 4 pixels allow.

    python benchmarks/motion.py [CHECKPOINT [--window 1]] [--clips 200] [--size 32] [--frames 3] [--motions left right] [--twins 1.0]

The clips are those of `refseg evaluate CHECKPOINT scenes` with the same size, frames, motions and twins, two phrases each. By register:
"guessed" is how often one of the things that the bare noun fits, taken at random, is the right one. "J of cells" is the J of the exact answer as far as
cells of 4 pixels, on or off, can draw it. "answered" is how often, frame by frame, the checkpoint's mask covers more of what is meant than of any
other thing.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.vocabulary import Name, groups_of_noun, names_of_anything, names_of_noun
from refseg.predictor import Predictor, load
from refseg.structures import Example

STRIDE = 4  # of ReferFormer's masks


def main() -> None:
    """Prints one line for every register, and one for all phrases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--window", type=int, default=0, help="frames answered at once; 0 is all")
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
    predictor = None if asked.checkpoint is None else load(asked.checkpoint, device="cpu")
    told: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for example in Scenes(spec):
        facts = list(guesses(example))
        if predictor is not None:
            right = answered(predictor, example, asked.window or asked.frames)
            facts = [(register, (*part, share)) for (register, part), share in zip(facts, right, strict=True)]
        for register, part in facts:
            told[register].append(part)
            told["all"].append(part)
    for register, found in sorted(told.items(), key=lambda pair: (pair[0] == "all", pair[0])):
        means = (100 * sum(part) / len(found) for part in zip(*found, strict=True))
        named = zip(("guessed", "J of cells", "answered"), means, strict=False)
        print(f"{register:6} {len(found):5} phrases", *(f" {name} {mean:5.1f}" for name, mean in named))


def guesses(example: Example) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Of each phrase its register; the chance of one of so many things that its noun fits, and the J of the exact cells."""
    assert example.things is not None and example.registers is not None and example.masks is not None
    nouns = example.things.nouns.tolist()
    for phrase, register, masks in zip(example.phrases, example.registers, example.masks, strict=True):
        said = [name for name in all_names(nouns) if f" {name.one} " in f" {phrase} "]
        longest = max(said, key=lambda name: len(name.one))
        fitting = sum(noun in longest.possible for noun in nouns)
        yield register, (1 / fitting, overlap_of_cells(masks))


def answered(predictor: Predictor, example: Example, window: int) -> list[float]:
    """Of each phrase the share of frames in which its answer covers more of what is meant than of any other thing."""
    assert example.things is not None and example.masks is not None
    parts = [
        range(start, min(start + window, len(example.frames)))
        for start in range(0, len(example.frames), window)
    ]
    pictures = [frame.permute(1, 2, 0).numpy() for frame in example.frames]
    answers = [predictor([pictures[i] for i in part], example.phrases) for part in parts]
    numbers = torch.arange(1, len(example.things.nouns) + 1)[:, None, None, None]
    things = example.things.ids[None] == numbers  # [things, T, H, W]
    shares = []
    for place, meant in enumerate(example.masks):
        mask = torch.cat([answer[place].masks for answer in answers])
        covered = (things & mask).flatten(2).sum(2)  # [things, T]
        target = (meant & mask).flatten(1).sum(1)
        others = torch.where((things & meant).flatten(1).any(1)[:, None], 0, covered).amax(0)
        shares.append(float((target > others).float().mean()))
    return shares


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
