"""What a guesser scores on motion phrases: it sees every thing exactly, and takes one that the bare noun fits, at random.

    python benchmarks/motion_chance.py [--clips 300] [--size 64] [--frames 3] [--motions left right] [--twins 1.0]

The clips are those of `refseg evaluate CHECKPOINT scenes` with the same size, frames, motions and twins, two phrases each.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.data.scenes.words import Name, groups_of_noun, names_of_anything, names_of_noun
from refseg.structures import Example


def main() -> None:
    """Prints one line for every register, and one for all phrases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--size", type=int, default=64)
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
    chances: dict[str, list[float]] = defaultdict(list)
    for example in Scenes(spec):
        for register, chance in guesses(example):
            chances[register].append(chance)
            chances["all"].append(chance)
    for register, found in sorted(chances.items(), key=lambda pair: (pair[0] == "all", pair[0])):
        print(f"{register:6} {len(found):5} phrases  the right thing {100 * sum(found) / len(found):5.1f} %")


def guesses(example: Example) -> Iterator[tuple[str, float]]:
    """Register and chance of each phrase: one of so many things that its noun fits."""
    assert example.things is not None and example.registers is not None
    nouns = example.things.nouns.tolist()
    for phrase, register in zip(example.phrases, example.registers, strict=True):
        said = [name for name in all_names(nouns) if f" {name.one} " in f" {phrase} "]
        longest = max(said, key=lambda name: len(name.one))
        yield register, 1 / sum(noun in longest.possible for noun in nouns)


def all_names(nouns: list[int]) -> Iterator[Name]:
    """Every name of some of the nouns."""
    for noun in nouns:
        yield from names_of_noun()[noun]
        yield from groups_of_noun()[noun]
    yield from names_of_anything()


if __name__ == "__main__":
    main()
