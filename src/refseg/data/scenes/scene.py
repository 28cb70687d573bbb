"""One scene from beginning to end: things, pixels, id maps and phrases, from a few whole numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.layout import Split, Thing, draw_things, make_twins
from refseg.data.scenes.motion import ALL_MOVES, Moves, Path, at_time, draw_path, is_hidden
from refseg.data.scenes.phrases.describe import View
from refseg.data.scenes.phrases.registers import Registers, Said, say
from refseg.data.scenes.render import (
    Patch,
    Skins,
    compose,
    develop,
    draw_finish,
    fitting_background,
    id_map,
    measure,
    warp_thing,
)
from refseg.data.scenes.rng import Rng
from refseg.data.scenes.sprites import Atlas

Bytes = NDArray[np.uint8]

SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "val": 1, "new": 2}
_LEAST_VISIBLE = 0.45
_LEAST_VISIBLE_MOVING, _LEAST_MEAN_VISIBLE = 0.25, 0.60
_MOST_BESIDES_TWO, _MOST_BESIDES_TWINS = 3, 1  # things of a clip
_SHAKE_SHARE, _SHAKE = 0.3, 0.012


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene with its phrases."""

    frames: Bytes  # [T, side, side, 3]
    ids: Bytes  # [T, side, side]; 0 = background, n = thing n - 1
    things: tuple[Thing, ...]
    said: tuple[Said, ...]


def draw_scene(
    atlas: Atlas,
    *,
    seed: int,
    split: Split,
    index: int,
    side: int,
    num_frames: int,
    registers: Registers,
    num_phrases: int,
    moves: Moves = ALL_MOVES,
) -> Scene:
    """The scene that these numbers and the atlas make, on every machine and in every process."""
    cv2.setNumThreads(1)  # one scene is too small to share; data workers are the threads
    dice = Rng(seed, SPLIT_NUMBERS[split], index, num_frames)
    while True:
        if num_frames > 1:
            drawn = _try_clip(dice, atlas, split, side, num_frames=num_frames, moves=moves)
        else:
            drawn = _try_image(dice, atlas, split, side)
        said = say(dice, drawn.views, registers, num_phrases)
        if len(said) == num_phrases:
            return Scene(drawn.frames, drawn.ids, tuple(drawn.things), tuple(said))


@dataclass(frozen=True, slots=True)
class _Drawn:
    frames: Bytes
    ids: Bytes
    things: list[Thing]
    views: list[View]


def _try_clip(dice: Rng, atlas: Atlas, split: Split, side: int, *, num_frames: int, moves: Moves) -> _Drawn:
    while True:
        things, paths = _moving_things(dice, atlas, split, moves)
        shakes = _draw_shakes(dice, side, num_frames)
        stills = _stills(things, paths, shakes, Skins(atlas), side)
        if _is_seen([still.view for still in stills], paths):
            break
    background = fitting_background(dice, atlas, split, things, side)
    finish = draw_finish(dice)
    frames = []
    for still, (right, down) in zip(stills, shakes, strict=True):
        canvas = compose(_shifted(background, right, down), still.patches, still.ids, finish)
        frames.append(develop(dice, canvas, finish))
    return _Drawn(np.stack(frames), np.stack([s.ids for s in stills]), things, [s.view for s in stills])


def _moving_things(dice: Rng, atlas: Atlas, split: Split, moves: Moves) -> tuple[list[Thing], list[Path]]:
    """Two to five things with a motion each; of twins, the first two look alike and move in different ways."""
    has_twins = moves.twins > 0 and dice.chance(moves.twins)
    more = _MOST_BESIDES_TWINS if has_twins else _MOST_BESIDES_TWO
    things = draw_things(dice, atlas, split, count=2 + dice.below(more + 1))
    if has_twins:
        make_twins(things)
    paths: list[Path] = []
    for place, thing in enumerate(things):
        taken = things[0].motion if has_twins and place == 1 else ""
        paths.append(draw_path(dice, thing, moves, but=taken))
    return things, paths


@dataclass(frozen=True, slots=True)
class _Still:
    """One frame of a clip before anything is coloured in."""

    view: list[Thing]
    patches: list[Patch]
    ids: Bytes


def _stills(
    things: list[Thing], paths: list[Path], shakes: list[tuple[int, int]], skins: Skins, side: int
) -> list[_Still]:
    stills = []
    for frame, shake in enumerate(shakes):
        step = frame / max(len(shakes) - 1, 1)
        view = [at_time(thing, path, step) for thing, path in zip(things, paths, strict=True)]
        patches = _warp_visible(view, paths, skins, side=side, frame=frame, shake=shake)
        ids, areas = id_map(patches, side)
        measure(view, ids, areas)
        stills.append(_Still(view, patches, ids))
    return stills


def _shifted(background: Bytes, right: int, down: int) -> Bytes:
    """The background moved by so many pixels, mirrored at the edges that come into view."""
    side = background.shape[0]
    columns, rows = (np.abs(np.arange(side) - offset) for offset in (right, down))
    columns, rows = (np.minimum(places, 2 * (side - 1) - places) for places in (columns, rows))
    return background[rows[:, None], columns]


def _draw_shakes(dice: Rng, side: int, num_frames: int) -> list[tuple[int, int]]:
    """How far the camera is off in each frame, in pixels to the right and down."""
    shakes = [
        (round(dice.between(-_SHAKE, _SHAKE) * side), round(dice.between(-_SHAKE, _SHAKE) * side))
        for _ in range(num_frames if dice.chance(_SHAKE_SHARE) else 0)
    ]
    return shakes or [(0, 0)] * num_frames


def _warp_visible(
    now: list[Thing], paths: list[Path], skins: Skins, *, side: int, frame: int, shake: tuple[int, int]
) -> list[Patch]:
    """The patches of one frame; empty for a thing that is away."""
    patches = []
    for number, (thing, path) in enumerate(zip(now, paths, strict=True)):
        if is_hidden(path, frame):
            patches.append(Patch(np.zeros((0, 0, 4), np.uint8), 0, 0))
            continue
        shaken = replace(thing, x=thing.x + shake[0] / side, y=thing.y + shake[1] / side)
        patches.append(warp_thing(shaken, skins, number, side))
    return patches


def _is_seen(views: list[View], paths: list[Path]) -> bool:
    """Whether every thing is visible enough in the frames in which it is there, and on average."""
    for number, path in enumerate(paths):
        seen = [view[number].visible for frame, view in enumerate(views) if not is_hidden(path, frame)]
        if min(seen) < _LEAST_VISIBLE_MOVING or sum(seen) / len(seen) < _LEAST_MEAN_VISIBLE:
            return False
    return True


def _try_image(dice: Rng, atlas: Atlas, split: Split, side: int) -> _Drawn:
    while True:
        things = draw_things(dice, atlas, split)
        skins = Skins(atlas)
        patches = [warp_thing(thing, skins, number, side) for number, thing in enumerate(things)]
        ids, areas = id_map(patches, side)
        measure(things, ids, areas)
        if min(thing.visible for thing in things) >= _LEAST_VISIBLE:
            break
    background = fitting_background(dice, atlas, split, things, side)
    finish = draw_finish(dice)
    picture = develop(dice, compose(background, patches, ids, finish), finish)
    return _Drawn(picture[None], ids[None], things, [things])
