"""How things move in a clip, and phrases about it (mot)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refseg.data.scenes.layout import Thing
from refseg.data.scenes.phrases.describe import Claim, Habits, Meaning, View, describe, format_description
from refseg.data.scenes.rng import Rng
from refseg.errors import InvalidInput, UnknownName

MOTIONS: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "going to the left", "moving to the left"),
    "right": ("moving right", "going to the right", "moving to the right"),
    "up": ("moving up", "going up", "moving upwards"),
    "down": ("moving down", "going down", "moving downwards"),
    "circle": ("moving in circles", "going around in circles"),
    "growing": ("growing", "getting bigger", "becoming larger"),
    "shrinking": ("shrinking", "getting smaller", "becoming smaller"),
    "blinking": ("blinking", "flashing", "appearing and disappearing"),
    "spinning": ("spinning", "rotating", "turning around"),
    "still": ("standing still", "not moving", "staying still"),
}
_ALMOST: dict[str, tuple[str, ...]] = {
    "still": ("growing", "shrinking", "blinking", "spinning"),
    "circle": ("spinning",),
    "spinning": ("circle",),
}
_NEEDLESS_REFUSED = 0.5  # of the phrases that need no motion
_STILL_SHARE = 0.2
_TRAVEL = (0.25, 0.5)
_GROWTH, _SHRINKAGE = 1.9, 0.5
_SPIN = math.radians(150)
_RADIUS = 0.14
_WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_HABITS = Habits(group=0.2, anything=0.35, colour=0.25, texture=0.1)


@dataclass(frozen=True, slots=True)
class Path:
    """The motion of one thing over a whole clip."""

    motion: str
    travel: float = 0.0  # of the side of the picture, or turns of a circle
    phase: float = 0.0  # radians; the start on a circle


@dataclass(frozen=True, slots=True)
class Moves:
    """Which motions a world knows, and how often two things of one look differ in nothing else."""

    known: tuple[str, ...] = tuple(MOTIONS)
    twins: float = 0.0  # share of the clips with two things of one noun, colour and texture

    def __post_init__(self) -> None:
        for name in self.known:
            if name not in MOTIONS:
                raise UnknownName("motion", name, MOTIONS)
        if not 0 <= self.twins <= 1:
            raise InvalidInput(f"twins is {self.twins}; give the share of clips that show them, from 0 to 1")
        if not self.known or (self.twins and len(self.known) < 2):
            raise InvalidInput(
                f"{len(self.known)} motions were named; name at least one, and two where twins are told apart by them"
            )


ALL_MOVES = Moves()


def draw_path(dice: Rng, thing: Thing, moves: Moves = ALL_MOVES, *, but: str = "") -> Path:
    """A motion for the thing, other than `but`; moves its place and side so that the whole of it stays in the picture."""
    motion = _draw_motion(dice, [name for name in moves.known if name != but])
    thing.motion = motion
    if motion == "growing":
        thing.side = min(thing.side, 0.42 / _GROWTH)
    if motion == "shrinking":
        thing.side = max(thing.side, 0.28)
    path = Path(motion, dice.between(*_TRAVEL), dice.between(0, 2 * math.pi))
    extent = thing.side * (_GROWTH if motion == "growing" else 1.0) * 0.52
    reach_x = reach_y = extent
    if motion == "circle":
        reach_x = reach_y = extent + _RADIUS
    room = {"left": path.travel, "up": path.travel}.get(motion, 0.0)
    room_after = {"right": path.travel, "down": path.travel}.get(motion, 0.0)
    across = motion in ("left", "right")
    thing.x = _inside(thing.x, reach_x + room * across, reach_x + room_after * across)
    thing.y = _inside(thing.y, reach_y + room * (not across), reach_y + room_after * (not across))
    return path


def _draw_motion(dice: Rng, known: Sequence[str]) -> str:
    moving = [name for name in known if name != "still"]
    if not moving or ("still" in known and dice.chance(_STILL_SHARE)):
        return "still"
    return dice.pick(moving)


def _inside(place: float, before: float, after: float) -> float:
    """The place, moved so that `before` is left on its low side and `after` on its high side, if there is room."""
    low, high = before, 1 - after
    return min(max(place, low), high) if low <= high else (low + high) / 2


def at_time(thing: Thing, path: Path, step: float) -> Thing:
    """The thing as it is in one frame; `step` runs from 0 to 1 over the clip."""
    if path.motion in _WAYS:
        right, down = _WAYS[path.motion]
        return replace(thing, x=thing.x + right * path.travel * step, y=thing.y + down * path.travel * step)
    if path.motion == "circle":
        turn = path.phase + 2 * math.pi * step * 0.9
        return replace(thing, x=thing.x + _RADIUS * math.cos(turn), y=thing.y + _RADIUS * math.sin(turn))
    if path.motion in ("growing", "shrinking"):
        final = _GROWTH if path.motion == "growing" else _SHRINKAGE
        return replace(thing, side=thing.side * final**step)
    if path.motion == "spinning":
        return replace(thing, turn=thing.turn + _SPIN * step)
    return replace(thing)


def is_hidden(path: Path, frame: int) -> bool:
    """Whether a blinking thing is away in this frame."""
    return path.motion == "blinking" and frame % 2 == 1


def say_motion(dice: Rng, view: View) -> Claim | None:
    """The A moving left; nothing about a view whose things have no motion."""
    target = dice.pick(view)
    if not target.motion:
        return None
    described = describe(dice, target, _HABITS)
    if described.only(view) is not None and dice.chance(_NEEDLESS_REFUSED):
        return None
    motion = target.motion
    maybe = (motion, *_ALMOST.get(motion, ()))
    linked = "that is " if dice.chance(0.3) else ""
    text = f"the {format_description(dice, described)} {linked}{dice.pick(MOTIONS[motion])}"

    def meaning(now: View) -> Meaning | None:
        found = [i for i, thing in enumerate(now) if described.possible(thing) and thing.motion in maybe]
        if len(found) != 1 or now[found[0]].motion != motion or not described.sure(now[found[0]]):
            return None
        return (found[0],)

    return Claim(text, f"motion {motion}", meaning, described.name)
