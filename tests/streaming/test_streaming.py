"""Windows over clips of any length, with models whose answers are known."""

import weakref

import pytest
import torch

from helpers.seeing import SeeingModel
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.predictor import Predictor
from refseg.streaming import stream
from refseg.structures import Output

RED, BLUE = (255, 0, 0), (0, 0, 255)


class TwoCandidates(SeeingModel):
    """Offers the red thing and the blue thing, in an order that changes; it prefers the larger one of the window."""

    def segment(self, visual, text):
        (pixels,) = visual.maps
        masks = torch.stack(
            [
                torch.stack([self._answer(p, v, word) for word in ("red", "blue")])
                for p, v in self._rows(visual)
            ]
        )
        areas = masks.flatten(2).float().mean(-1)  # [P, 2]
        if self.num_encoded % 2:  # the network's numbering means nothing from window to window
            masks, areas = masks.flip(1), areas.flip(1)
        return Output(masks.to(pixels.dtype) * 40 - 20, areas[:, :, None, None])

    def choose(self, output):
        best = output.class_logits[:, :, 0, 0].max(dim=1)
        return best.indices, best.values.clamp(0, 1)

    @staticmethod
    def _rows(visual):
        return zip(visual.maps[0], visual.valid, strict=True)


def scene(index, count, *, hides=()):
    """A red square that shrinks and a blue one that grows while both walk to the right."""
    frame = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    share = index / (count - 1)
    for colour, top, side in ((RED, 4, round(26 - 16 * share)), (BLUE, 36, round(8 + 18 * share))):
        if colour == RED and index in hides:
            continue
        left = 4 + round(40 * share)
        frame[:, top : top + side, left : left + side] = torch.tensor(colour, dtype=torch.uint8)[
            :, None, None
        ]
    return frame


def clip(count, **kwargs):
    return [scene(index, count, **kwargs) for index in range(count)]


def red_of(frame):
    return (frame[0] == 255) & (frame[2] == 0)


def predictor(model=None):
    return Predictor(model or TwoCandidates(), device="cpu")


def joined(parts):
    return torch.cat([part.answers[0].masks for part in parts])


def overlap(one, other):
    return ((one & other).sum() / (one | other).sum()).item()


def test_a_window_boundary_does_not_switch_objects():
    frames = clip(40)
    masks = joined(stream(predictor(), frames, ["any red"], window=10, overlap=4))
    assert min(overlap(mask, red_of(frame)) for mask, frame in zip(masks, frames, strict=True)) > 0.7


def test_without_shared_frames_each_window_chooses_anew():
    # The control: the last windows hold more blue than red, and nothing ties them to what was followed.
    frames = clip(40)
    masks = joined(stream(predictor(), frames, ["any red"], window=10, overlap=0))
    assert overlap(masks[0], red_of(frames[0])) > 0.7
    assert overlap(masks[-1], red_of(frames[-1])) == 0


def test_an_object_out_of_sight_in_all_shared_frames_is_chosen_anew():
    frames = clip(16, hides=range(6, 10))  # windows 0..9 and 6..15
    masks = joined(stream(predictor(), frames, ["any red"], window=10, overlap=4))
    assert overlap(masks[-1], red_of(frames[-1])) == 0  # blue is larger by then


@pytest.mark.parametrize(
    ("count", "window", "shared"), [(1, 4, 2), (4, 4, 2), (5, 4, 2), (23, 7, 3), (24, 8, 0), (9, 1, 0)]
)
def test_parts_cover_the_clip_in_order_and_without_gaps(count, window, shared):
    frames = clip(30)[:count]
    parts = list(stream(predictor(SeeingModel()), frames, ["red", "blue"], window=window, overlap=shared))
    assert torch.equal(torch.cat([part.frames for part in parts]), torch.stack(frames))
    starts = [sum(len(p.frames) for p in parts[:i]) for i in range(len(parts))]
    assert [part.start for part in parts] == starts
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(answer.masks) == len(part.frames) for part in parts for answer in part.answers)


def test_a_clip_of_one_window_is_answered_as_a_whole():
    torch.manual_seed(0)
    model = Predictor(catalog.build("referformer", "debug-video"), device="cpu")
    frames = torch.randint(
        0, 256, (5, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    whole = model(frames, ["a dog", "the left cat"])
    (part,) = stream(model, frames, ["a dog", "the left cat"], window=5, overlap=2)
    for streamed, answer in zip(part.answers, whole, strict=True):
        assert torch.equal(streamed.masks, answer.masks)
        assert streamed.score == pytest.approx(answer.score, abs=1e-6)


def test_frames_are_taken_only_as_parts_are_asked_for():
    taken = []

    def reader():
        for index, frame in enumerate(clip(30)):
            taken.append(index)
            yield frame

    parts = stream(predictor(SeeingModel()), reader(), ["red"], window=6, overlap=2)
    next(parts)
    assert len(taken) == 7  # one more tells that the window is not the last


def test_no_more_frames_than_a_window_are_held():
    alive, most = weakref.WeakSet(), 0

    def reader():
        nonlocal most
        for index in range(60):
            frame = scene(index % 20, 20)
            alive.add(frame)
            yield frame
            del frame
            most = max(most, len(alive))

    for part in stream(predictor(SeeingModel()), reader(), ["red"], window=6, overlap=2):
        del part
    assert most <= 7


def test_phrases_that_are_asked_in_several_steps_keep_their_own_object(monkeypatch):
    frames = clip(40)
    together = list(stream(predictor(), frames, ["red", "blue", "left"], window=10, overlap=4))
    monkeypatch.setattr("refseg.predictor._MOST_PHRASES_AT_ONCE", 2)
    apart = list(stream(predictor(), frames, ["red", "blue", "left"], window=10, overlap=4))
    for one, other in zip(together, apart, strict=True):
        for answer, same in zip(one.answers, other.answers, strict=True):
            assert torch.equal(answer.masks, same.masks)


@pytest.mark.parametrize(("window", "shared"), [(0, 0), (4, 3), (4, -1)])
def test_windows_that_do_not_advance_are_refused(window, shared):
    with pytest.raises(InvalidInput, match="do not fit"):
        next(stream(predictor(), clip(3), ["red"], window=window, overlap=shared))


def test_a_clip_without_frames_is_refused():
    with pytest.raises(InvalidInput, match="no frame"):
        next(stream(predictor(), [], ["red"]))
