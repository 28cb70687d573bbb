"""Clips of any length in bounded memory: overlapping windows, each an ordinary clip, and answers while frames come in.

The rule across windows. A model with several candidate queries chooses one for each window, by the scores of that window
alone; nothing ties the choices together, so an object could be lost at every boundary. Here the first window's choice is
the model's own. In each later window the candidate is taken whose masks agree best with those of the candidate before, in
the frames that both windows saw: IoU of all these frames' pixels together, at the network's resolution. Where no
candidate reaches `LINK`, or the object was out of sight in all these frames, the model's own choice stands.

Of the frames that two windows share, the earlier window answers for the first half and the later one for the rest.
A clip no longer than one window is answered as a whole, as `Predictor` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refseg.errors import InvalidInput
from refseg.prediction import Prediction
from refseg.predictor import EncodedClip, Predictor, check_phrases
from refseg.structures import Output

WINDOW = 36  # frames answered at once; as many as the longest clips of Ref-YouTube-VOS have
OVERLAP = 6  # frames that two windows share
LINK = 0.5  # IoU from which a candidate is the one followed before


@dataclass(slots=True, frozen=True)
class Part:
    """The next frames of a clip, with the answer to every phrase about them."""

    start: int  # number of the first frame in the clip
    frames: Tensor  # [T, 3, H, W] uint8
    answers: list[Prediction]  # one a phrase; masks of these frames, score of the window
    is_last: bool


def stream(
    predictor: Predictor,
    frames: Iterable[Tensor],
    phrases: Sequence[str],
    *,
    window: int = WINDOW,
    overlap: int = OVERLAP,
) -> Iterator[Part]:
    """Answers about a clip as its frames come in, in parts that follow each other and cover it.

    Arguments:
        frames: [3, H, W] uint8 each, of one size; taken only as fast as parts are asked for.
        window: frames that the network sees together.
        overlap: frames that two windows share.

    Raises:
        InvalidInput: if there is no frame, window and overlap do not fit together, or a phrase is refused.
    """
    asked = check_phrases(phrases)
    check_windows(window, overlap)
    predictor.model.tell_candidates()
    follower = _Follower(predictor, asked)
    held: list[Tensor] = []
    start, is_first = 0, True
    for frame in frames:
        if len(held) == window:  # one more frame came, so this window is not the last
            lead = 0 if is_first else overlap // 2
            yield follower.part(held, start, lead, (overlap + 1) // 2, overlap, is_last=False)
            start, is_first = start + window - overlap, False
            held = held[window - overlap :]
        held.append(frame)
    if not held:
        raise InvalidInput("the clip holds no frame")
    yield follower.part(held, start, 0 if is_first else overlap // 2, 0, overlap, is_last=True)


def check_windows(window: int, overlap: int) -> None:
    """Refuses windows that do not advance.

    Raises:
        InvalidInput: if so, saying what fits.
    """
    if window < 1 or overlap < 0 or 2 * overlap > window:
        raise InvalidInput(
            f"windows of {window} frames that share {overlap} do not fit; give a window of at least one frame, and an overlap "
            "of at most half of it"
        )


class _Follower:
    """Answers window after window, and remembers what was followed at the end of the last one."""

    def __init__(self, predictor: Predictor, phrases: list[str]) -> None:
        self._predictor, self._phrases = predictor, phrases
        self._seen: Tensor | None = None  # [P, k, h, w] bool: the last masks of all phrases

    def part(
        self, held: list[Tensor], start: int, lead: int, trail: int, overlap: int, *, is_last: bool
    ) -> Part:
        """The answers of one window, without its first `lead` and last `trail` frames."""
        frames = torch.stack(held)
        clip = self._predictor.encode(frames)
        answers = self._answers(clip, overlap)
        kept = slice(lead, len(held) - trail)
        shown = [replace(answer, masks=answer.masks[kept]) for answer in answers]
        return Part(start + lead, frames[kept], shown, is_last)

    def _answers(self, clip: EncodedClip, overlap: int) -> list[Prediction]:
        answers: list[Prediction] = []
        seen = []
        for output in self._predictor.outputs(clip, self._phrases):
            rows = slice(len(answers), len(answers) + len(output.mask_logits))
            followed = follow(self._predictor, output, None if self._seen is None else self._seen[rows])
            seen.append(followed.mask_logits[:, 0, clip.num_frames - overlap :] > 0)
            asked = self._phrases[rows]
            answers += self._predictor.finish(followed, [clip.placement] * len(asked), asked)
        self._seen = torch.cat(seen)
        return answers


def follow(predictor: Predictor, output: Output, before: Tensor | None) -> Output:
    """An output with one candidate a phrase: the one that agrees with masks seen before, or the model's own choice.

    Shapes:
        before: [P, k, h, w] bool, of the frames that are the first k of `output`; None at the beginning.
    """
    query, _ = predictor.model.choose(output)
    if before is not None and before.shape[1]:
        agreement = _agreement(output.mask_logits[:, :, : before.shape[1]] > 0, before)  # [P, Q]
        best = agreement.max(dim=1)
        query = torch.where(best.values >= LINK, best.indices, query)
    return _only(output, query)


def _agreement(masks: Tensor, before: Tensor) -> Tensor:
    """IoU [P, Q] of candidates' masks [P, Q, k, h, w] with masks [P, k, h, w]; 0 where there is none."""
    both = (masks & before[:, None]).flatten(2).sum(-1)
    either = (masks | before[:, None]).flatten(2).sum(-1)
    return both / either.clamp(min=1)


def _only(output: Output, query: Tensor) -> Output:
    """One candidate [P] of each phrase."""
    rows = torch.arange(len(query), device=query.device)
    classes, boxes = output.class_logits, output.boxes
    return Output(
        output.mask_logits[rows, query][:, None],
        None if classes is None else classes[rows, query][:, None],
        None if boxes is None else boxes[rows, query][:, None],
    )
