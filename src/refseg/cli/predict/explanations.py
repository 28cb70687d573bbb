"""Sheets that tell how answers came about, one a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg.media.drawing import save_picture

if TYPE_CHECKING:
    from torch import Tensor

    from refseg.cli.predict.outputs import AnswerFiles
    from refseg.prediction import Prediction
    from refseg.predictor import EncodedClip, Predictor
    from refseg.structures import Explanation


@dataclass(frozen=True)
class Explained:
    """The frame that an explanation speaks of."""

    frames: Tensor  # [T, 3, H, W] uint8, encoded together
    frame: int
    mask: np.ndarray  # [H, W] bool


def clearer(earlier: Explained | None, frames: Tensor, answer: Prediction) -> Explained:
    """Of an earlier frame and those of a part, the one that shows most of the object."""
    areas = answer.masks.flatten(1).sum(1)
    best = int(areas.argmax())
    if earlier is not None and int(earlier.mask.sum()) >= int(areas[best]):
        return earlier
    return Explained(frames, best, answer.masks[best].numpy())


def write_explanations(
    predictor: Predictor,
    phrases: Sequence[str],
    shown: Sequence[Explained | None],
    files: Sequence[AnswerFiles],
) -> list[dict[str, Any]]:
    """A sheet for each phrase, and what its JSON line tells of it; nothing for a phrase of which no frame was shown."""
    clips: dict[int, EncodedClip] = {}
    facts: list[dict[str, Any]] = []
    for one, phrase, entry in zip(shown, phrases, files, strict=True):
        if one is None:
            facts.append({})
            continue
        if id(one.frames) not in clips:
            clips[id(one.frames)] = predictor.encode(one.frames)
        (told,) = predictor.explain(clips[id(one.frames)], [phrase], [one.frame])
        pixels = one.frames[one.frame].permute(1, 2, 0).numpy()
        facts.append(write_explanation(entry, pixels, one.mask, phrase, told))
    return facts


def write_explanation(
    files: AnswerFiles, pixels: np.ndarray, mask: np.ndarray, phrase: str, told: Explanation
) -> dict[str, Any]:
    """The sheet of an explanation about a frame [H, W, 3], and what a JSON line tells of it."""
    from refseg.media.draw_explanation import draw_explanation

    save_picture(draw_explanation(pixels, mask, phrase, told), files.explanation)
    facts: dict[str, Any] = {"sheet": files.explanation.name}
    weights = {one.title: round(one.weight, 6) for one in told.maps if one.weight is not None}
    facts |= {"weights": weights} if weights else {}
    facts |= {"words": [[word, round(share, 6)] for word, share in told.words]} if told.words else {}
    for name, part in (("point", told.points), ("box", told.boxes)):
        facts |= {} if part is None else {name: [round(value, 6) for value in part[0].tolist()]}
    return {"explanation": facts}
