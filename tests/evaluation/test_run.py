"""Evaluation asks what a user asks, and counts what comes back."""

from dataclasses import dataclass

import pytest
import torch

from helpers.datasets import ListedExamples
from refseg.errors import InvalidInput
from refseg.evaluation.run import evaluate
from refseg.structures import Example


@dataclass
class Answer:
    phrase: str
    masks: torch.Tensor
    score: float | None = None


class ColumnPredictor:
    """Answers "column N" with column N of every frame, anything else with nothing; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, frames, *, target_frames=None):
        return frames if target_frames is None else frames[target_frames]

    def segment(self, clip, phrases):
        self.asked.append(tuple(phrases))
        return [Answer(phrase, self._column(clip, phrase)) for phrase in phrases]

    def _column(self, clip, phrase):
        masks = torch.zeros(len(clip), *clip.shape[-2:], dtype=torch.bool)
        if phrase == "unreadable":
            raise InvalidInput("the model knows no word 'unreadable'")
        if phrase.startswith("column "):
            masks[..., int(phrase.removeprefix("column "))] = True
        return masks


class Columns(ListedExamples):
    """Example i has the phrases given; the target of "column N" is that column, of anything else nothing."""

    def __init__(self, examples, name="columns"):
        super().__init__(examples, name)


def example(name, *phrases, frames=1, registers=None, size=(5, 7)):
    masks = torch.zeros(len(phrases), frames, *size, dtype=torch.bool)
    for row, phrase in enumerate(phrases):
        if phrase.startswith("column "):
            masks[row, ..., int(phrase.removeprefix("column "))] = True
    pixels = torch.zeros(frames, 3, *size, dtype=torch.uint8)
    return Example(name, pixels, phrases, masks=masks, registers=registers)


def test_right_answers_score_one_in_every_register():
    data = Columns(
        [example("a", "column 1", "nothing here", registers=("loc", "none")), example("b", "column 6")]
    )
    result = evaluate(ColumnPredictor(), data)
    assert result.score("loc").miou == 1.0
    assert result.score("none").refused == 1.0
    assert (result.examples, result.frames, result.phrases) == (2, 2, 3)


def test_wrong_answers_score_what_they_overlap():
    wrong = example("a", "column 1")
    wrong.masks[..., 2] = True  # two columns are asked for, one is answered
    assert evaluate(ColumnPredictor(), Columns([wrong])).score().miou == 0.5


def test_a_clip_is_compared_at_its_target_frames():
    clip = example("a", "column 1", frames=3)
    clip.masks, clip.target_frames = clip.masks[:, :2], torch.tensor([0, 2])
    result = evaluate(ColumnPredictor(), Columns([clip]))
    assert result.score().miou == 1.0
    assert result.frames == 3


def test_a_limit_leaves_the_rest_unasked():
    predictor = ColumnPredictor()
    evaluate(predictor, Columns([example(n, "column 1") for n in "abc"]), limit=2)
    assert len(predictor.asked) == 2


def test_the_shuffled_control_asks_phrases_of_the_neighbour_and_scores_low():
    data = Columns([example(str(n), f"column {n}", "nothing") for n in range(5)])
    predictor = ColumnPredictor()
    result = evaluate(predictor, data, shuffle_phrases=True)
    assert predictor.asked == [("column 4",), ("column 0",), ("column 1",), ("column 2",), ("column 3",)]
    assert result.is_shuffled
    assert result.score().miou == 0.0


def test_the_shuffled_control_keeps_the_register_and_avoids_the_same_words():
    data = Columns(
        [
            example("a", "column 1", "column 2", registers=("loc", "app")),
            example("b", "column 3", "column 1", "column 4", registers=("app", "loc", "loc")),
        ]
    )
    predictor = ColumnPredictor()
    evaluate(predictor, data, shuffle_phrases=True)
    assert predictor.asked[0] == ("column 4", "column 3")


def test_the_shuffled_control_needs_two_examples():
    with pytest.raises(InvalidInput, match="two examples"):
        evaluate(ColumnPredictor(), Columns([example("a", "column 1")]), shuffle_phrases=True)


def test_an_empty_data_set_is_refused():
    with pytest.raises(InvalidInput, match="columns has 0 examples"):
        evaluate(ColumnPredictor(), Columns([]))


def test_an_example_without_masks_is_named():
    bare = Example("bare.png", torch.zeros(1, 3, 5, 7, dtype=torch.uint8), ("a dog",))
    with pytest.raises(InvalidInput, match=r"bare\.png"):
        evaluate(ColumnPredictor(), Columns([bare]))


def test_a_phrase_that_the_model_cannot_read_names_the_example():
    with pytest.raises(InvalidInput, match=r"^a: .*unreadable"):
        evaluate(ColumnPredictor(), Columns([example("a", "unreadable")]))
