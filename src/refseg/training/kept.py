"""What a run knows of its measurements so far: the best ones, and for how long there was no gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from refseg.training.sections import RunSection


@dataclass
class Kept:
    """The measurements that count, as plain data that a state can hold."""

    best: float | None = None  # the highest quality so far
    gained: float | None = None  # the quality at the last gain, which later ones are held against
    stale: int = 0  # measurements since then
    ranking: list[tuple[float, int]] = field(
        default_factory=list
    )  # the best ones: quality and step, best first
    scores: dict[str, float] = field(default_factory=dict)  # of the last measurement
    best_scores: dict[str, float] = field(default_factory=dict)  # of the best one
    base: dict[str, str] = field(default_factory=dict)  # name and sha256 of what adapters are trained on

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Kept:
        """What a state holds."""
        kept = dict(state["kept"])
        kept["ranking"] = [(quality, step) for quality, step in kept["ranking"]]
        return cls(**kept)

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def note(self, quality: float, step: int, scores: Mapping[str, float], settings: RunSection) -> bool:
        """Takes a measurement in and returns whether it is the best so far."""
        is_best = self.best is None or quality > self.best
        self.scores = dict(scores)
        if is_best:
            self.best, self.best_scores = quality, dict(scores)
        if self.gained is None or quality > self.gained + settings.min_gain:
            self.gained, self.stale = quality, 0
        else:
            self.stale += 1
        others = [(other, at) for other, at in self.ranking if at != step]
        # Of equal ones the earlier stays, as best.safetensors does.
        ordered = sorted([*others, (quality, step)], key=lambda entry: (-entry[0], entry[1]))
        self.ranking = ordered[: settings.keep_best]
        return is_best

    def keeps(self, step: int) -> bool:
        """Whether the measurement after this step is one of the best."""
        return any(at == step for _, at in self.ranking)

    def has_ended(self, settings: RunSection) -> bool:
        """Whether the run has waited for a gain as often as it may."""
        return 0 < settings.patience <= self.stale
