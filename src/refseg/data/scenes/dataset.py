"""Scenes as a data set: nothing is stored, an index is drawn when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from refseg.data.scenes.motion import MOTIONS
from refseg.data.scenes.phrases import REGISTERS, Registers
from refseg.data.scenes.scene import SPLIT_NUMBERS, Scene, draw_scene
from refseg.data.scenes.sprites import AUTO, load_atlas
from refseg.data.scenes.words import WORDS
from refseg.data.scenes.world import Split
from refseg.errors import InvalidInput, UnknownName
from refseg.structures import Example, Things

IMAGE_REGISTERS: Registers = (("loc", 0.25), ("app", 0.25), ("rel", 0.26), ("multi", 0.12), ("none", 0.12))
"""Shares of the registers when images are trained."""

CLIP_REGISTERS: Registers = (("mot", 0.55), ("app", 0.2), ("multi", 0.1), ("none", 0.1), ("loc", 0.05))
"""Shares of the registers when clips are trained."""

_SMALLEST_SIDE, _MOST_FRAMES = 32, 256
_TRAINING_COUNT, _HELD_OUT_COUNT = 1_000_000, 1_000


@dataclass(frozen=True)
class ScenesSpec:
    """Which scenes to draw. Equal specifications and sprites give equal scenes in every process.

    Splits never share a scene: the split is a part of what seeds it. "val" has the world of "train" and other seeds;
    "new" shows colour and noun pairs, renderings and photographs that training never shows.

    Raises:
        InvalidInput: a number is out of its range, or a share is negative.
        UnknownName: a register or a split that does not exist.
    """

    size: int = 128  # side of the picture in pixels
    frames: int = 1
    phrases: int = 3  # of every scene; 0 for a naming objective
    registers: Registers | Mapping[str, float] | None = None  # shares; absent: as images or clips are trained
    split: Split = "train"
    count: int | None = None  # absent: a million of "train", a thousand of the others
    seed: int = 0
    sprites: str = AUTO  # "auto", "none" (shapes only), or the path of a file written by `write_atlas`

    def __post_init__(self) -> None:
        if self.size < _SMALLEST_SIDE or not 1 <= self.frames <= _MOST_FRAMES:
            raise InvalidInput(
                f"scenes of {self.size} pixels and {self.frames} frames cannot be drawn; "
                f"size must be at least {_SMALLEST_SIDE} and frames between 1 and {_MOST_FRAMES}."
            )
        if min(self.count or 0, self.phrases, self.seed) < 0:
            raise InvalidInput(
                f"count {self.count}, phrases {self.phrases} and seed {self.seed} must not be negative."
            )
        if self.split not in SPLIT_NUMBERS:
            raise UnknownName("split of scenes", self.split, SPLIT_NUMBERS)
        for name, share in self._asked().items():
            if name not in REGISTERS:
                raise UnknownName("register", name, REGISTERS)
            if not share >= 0:
                raise InvalidInput(
                    f"register {name!r} has the share {share}; give a number that is not negative."
                )
        if self.phrases and not self.shares():
            raise InvalidInput("no register has a share; name at least one, such as {'loc': 1.0}.")
        if self.frames == 1 and "mot" in dict(self.shares()):
            raise InvalidInput(
                "register 'mot' speaks of motion, and scenes of 1 frame have none; ask for frames >= 2."
            )

    def shares(self) -> Registers:
        """The registers that have a share, in the order of REGISTERS."""
        asked = self._asked()
        return tuple((name, float(asked[name])) for name in REGISTERS if asked.get(name))

    def _asked(self) -> dict[str, float]:
        if self.registers is None:
            return dict(IMAGE_REGISTERS if self.frames == 1 else CLIP_REGISTERS)
        return dict(self.registers)


class Scenes(torch.utils.data.Dataset[Example]):
    """A map-style data set of scenes; cheap to construct and to send to another process."""

    name = "scenes"
    vocabulary: tuple[str, ...] = WORDS

    def __init__(self, spec: ScenesSpec) -> None:
        self.spec = spec

    def __len__(self) -> int:
        if self.spec.count is not None:
            return self.spec.count
        return _TRAINING_COUNT if self.spec.split == "train" else _HELD_OUT_COUNT

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        """Scene `index`, with its phrases.

        `labels` are indices into NOUNS: of the target, or -1 where a phrase means nothing or several nouns.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return to_example(self.scene(index), f"{self.spec.split}-{self.spec.seed}-{index:06d}")

    def scene(self, index: int) -> Scene:
        """Scene `index` as it was drawn, with what is known of every thing."""
        spec = self.spec
        return draw_scene(
            load_atlas(spec.sprites),
            seed=spec.seed,
            split=spec.split,
            index=index,
            side=spec.size,
            num_frames=spec.frames,
            registers=spec.shares(),
            num_phrases=spec.phrases,
        )


def to_example(scene: Scene, name: str) -> Example:
    """A scene as an annotated clip: masks show what is visible of the things that each phrase means."""
    ids = torch.from_numpy(scene.ids)
    return Example(
        name=name,
        frames=torch.from_numpy(scene.frames.transpose(0, 3, 1, 2).copy()),
        phrases=tuple(said.text for said in scene.said),
        masks=_masks(scene),
        labels=torch.tensor([_label(scene, said.meaning) for said in scene.said], dtype=torch.int64),
        registers=tuple(said.register for said in scene.said),
        things=Things(
            ids=ids,
            nouns=torch.tensor([thing.noun for thing in scene.things]),
            colours=torch.tensor([thing.colour for thing in scene.things]),
            motions=_motions(scene),
        ),
    )


def _masks(scene: Scene) -> Tensor:
    """[P, T, H, W] bool."""
    meant = np.zeros((len(scene.said), len(scene.things) + 1), np.bool_)
    for row, said in zip(meant, scene.said, strict=True):
        row[[number + 1 for number in said.meaning]] = True
    return torch.from_numpy(meant[:, scene.ids])


def _motions(scene: Scene) -> Tensor | None:
    """Indices into MOTIONS; nothing of a picture."""
    if len(scene.frames) == 1:
        return None
    names = list(MOTIONS)
    return torch.tensor([names.index(thing.motion) for thing in scene.things])


def _label(scene: Scene, meaning: tuple[int, ...]) -> int:
    nouns = {scene.things[number].noun for number in meaning}
    return nouns.pop() if len(nouns) == 1 else -1
