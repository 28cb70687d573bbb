"""Scenes as a data set: nothing is stored, an index is drawn when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import Annotation, PhraseDataset, Timeline
from refseg.data.frame_sampling import pick_frames
from refseg.data.provenance import hash_examples
from refseg.data.scenes.layout import Split
from refseg.data.scenes.motion import ALL_MOVES, MOTIONS, Moves
from refseg.data.scenes.phrases.registers import REGISTERS, Registers
from refseg.data.scenes.scene import SPLIT_NUMBERS, Scene, draw_scene
from refseg.data.scenes.sprites import AUTO, load_atlas, sprites_hash
from refseg.data.scenes.vocabulary import WORDS
from refseg.errors import InvalidInput, UnknownName
from refseg.structures import Example, Size, Things

IMAGE_REGISTERS: Registers = (("loc", 0.25), ("app", 0.25), ("rel", 0.26), ("multi", 0.12), ("none", 0.12))
"""Shares of the registers when images are trained."""

CLIP_REGISTERS: Registers = (("mot", 0.55), ("app", 0.2), ("multi", 0.1), ("none", 0.1), ("loc", 0.05))
"""Shares of the registers when clips are trained."""

# Scenes that are drawn and hashed: another world, or another way of drawing it, gives other ones.
PROBE = 4

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
    motions: Sequence[str] | None = None  # that clips show and speak of; absent: all of them
    twins: float = 0.0  # share of clips with two things of one look, which only their motions tell apart
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
        self.moves()
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
        if self.frames == 1 and (self.motions is not None or self.twins):
            raise InvalidInput(
                "motions and twins are of clips, and scenes of 1 frame show none; ask for frames >= 2."
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ScenesSpec:
        """Scenes by names and plain values, as a recipe or the command line gives them.

        Raises:
            UnknownName: if there is no such field.
            InvalidInput: if a value is of another kind than the field's, or out of its range.
        """
        for name, value in values.items():
            if name not in _KINDS:
                raise UnknownName("field of scenes", name, _KINDS)
            if not _KINDS[name].fits(value):
                raise InvalidInput(f"{name} of scenes is {value!r}; give {_KINDS[name].told}")
        return cls(**values)

    def shares(self) -> Registers:
        """The registers that have a share, in the order of REGISTERS."""
        asked = self._asked()
        return tuple((name, float(asked[name])) for name in REGISTERS if asked.get(name))

    def moves(self) -> Moves:
        """How things move in clips."""
        return Moves(ALL_MOVES.known if self.motions is None else tuple(self.motions), self.twins)

    def _asked(self) -> dict[str, float]:
        if self.registers is None:
            return dict(IMAGE_REGISTERS if self.frames == 1 else CLIP_REGISTERS)
        return dict(self.registers)


@dataclass(frozen=True)
class _Kind:
    """What a field of a specification may be."""

    told: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_shares(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(share) for share in value.values())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


_WHOLE = _Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys(("size", "frames", "phrases", "seed"), _WHOLE),
    "count": _Kind("a whole number", lambda value: value is None or _WHOLE.fits(value)),
    **dict.fromkeys(("split", "sprites"), _TEXT),
    "registers": _Kind("shares by register, such as {loc = 0.5, app = 0.5}", _has_shares),
    "motions": _Kind('a list of motions, such as ["left", "right"]', _is_texts),
    "twins": _Kind("a number from 0 to 1", _is_number),
}


class Scenes(PhraseDataset):
    """A map-style data set of scenes; cheap to construct and to send to another process."""

    name = "scenes"
    is_endless = True

    def __init__(self, spec: ScenesSpec) -> None:
        self.spec, self.split = spec, spec.split

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a phrase about a scene may hold."""
        return WORDS

    def __len__(self) -> int:
        if self.spec.count is not None:
            return self.spec.count
        return _TRAINING_COUNT if self.spec.split == "train" else _HELD_OUT_COUNT

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return len(self) * self.spec.phrases

    def annotation(self, index: int) -> Annotation:
        """What is said of scene `index`; the whole of it is drawn."""
        example = self.example(index)
        count = len(example.phrases)
        return Annotation(
            name=example.name,
            paths=(),
            frames=tuple(str(number) for number in range(self.spec.frames)),
            size=self.size(index),
            phrases=example.phrases,
            ids=tuple(str(number) for number in range(count)),
            objects=("",) * count,
            no_target=(False,) * count,
            labels=(-1,) * count if example.labels is None else tuple(example.labels.tolist()),
            registers=example.registers,
        )

    def size(self, index: int) -> Size:
        """(height, width) of every scene."""
        del index
        return self.spec.size, self.spec.size

    def timeline(self, index: int) -> Timeline:
        """What clip `index` has; every frame is annotated."""
        return Timeline(self.spec.frames)

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Scene `index` with its phrases, and these of its frames; the whole of it is drawn.

        `labels` are indices into NOUNS: of the target, or -1 where a phrase means nothing or several nouns.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        example = to_example(self.scene(index), f"{self.spec.split}-{self.spec.seed}-{index:06d}")
        return example if frames is None else pick_frames(example, frames)

    def describe(self) -> dict[str, Any]:
        """The whole specification, and the hash of the sprites."""
        spec = asdict(self.spec) | {"count": len(self), "registers": dict(self.spec.shares())}
        return {"name": self.name, **spec, "sprites_hash": sprites_hash(self.spec.sprites)}

    def fingerprint(self) -> dict[str, Any]:
        """`describe`, and a hash of the first scenes as they are drawn here."""
        return self.describe() | {"probe": hash_examples(self[i] for i in range(min(PROBE, len(self))))}

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
            moves=spec.moves(),
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
