"""The checkpoints of the best measurements: one under its own name, and where the recipe asks for several, each with its step.

A file of several is never written anew under its name: it holds the weights of its step, or it is not there. Those that have
fallen behind go only after a state is safe that does not name them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from refseg.training.resume import BEST_NAME, is_of_step
from refseg.training.state import Training, Workplace


def best_at(step: int | str) -> str:
    """The file of one of several best checkpoints."""
    return f"best-at-{step}.safetensors"


def has_best(training: Training, place: Workplace) -> bool:
    """Whether the checkpoints of the measurement after this step, which is one of the best, are there."""
    return all(is_of_step(place.folder / name, training.step) for name in _names(training, place))


def save_best(training: Training, place: Workplace, save: Callable[[str], None]) -> None:
    """Keeps the weights of this step, whose measurement is one of the best.

    Arguments:
        save: writes these weights under a name.
    """
    first, *further = _names(training, place)
    save(first)
    for other in further:
        if not _linked(place.folder, first, other):
            save(other)


def _names(training: Training, place: Workplace) -> list[str]:
    """Under which the weights of this step are kept."""
    own = [best_at(training.step)] * (place.run.run.keep_best > 1)
    return own + [BEST_NAME] * (training.kept.ranking[0][1] == training.step)


def drop_others(training: Training, place: Workplace) -> None:
    """Takes away checkpoints that were among the best once, or that a run which was killed left behind."""
    several = place.run.run.keep_best > 1
    kept = {best_at(step) for _, step in training.kept.ranking} if several else set()
    for path in place.folder.glob(best_at("*")):
        if path.name not in kept:
            path.unlink()


def _linked(folder: Path, name: str, other: str) -> bool:
    """Gives a file a second name in place of another file; False on a disk that cannot."""
    half = folder / f".{other}.part"
    half.unlink(missing_ok=True)
    with suppress(OSError):
        half.hardlink_to(folder / name)
        half.replace(folder / other)
        return True
    half.unlink(missing_ok=True)
    return False
