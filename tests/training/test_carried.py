"""What a model carries beside its weights, such as vectors of words that it met, on several processes."""

import json

import pytest
import torch

from refseg.models import catalog
from refseg.training.parallel import Engine
from refseg.training.state import TrainState, share_extra_state

PHRASES = (["the left box"], ["a red circle"])


def carried(model):
    return json.loads(model.extra_state()["word_vectors"])["tokens"]


@pytest.fixture
def models():
    """One of each process, which has read other phrases than the other."""
    made = [catalog.build("vlt", "debug") for _ in PHRASES]
    for model, phrases in zip(made, PHRASES, strict=True):
        model.tokenize(phrases)
    return made


def gathering(monkeypatch, models, rank):
    """Runs as process `rank` of two, the other one answering with what its model carries; what was sent, in order."""
    sent, other = [], models[1 - rank]
    told = iter(("another digest", other.extra_state()))

    def gather(value):
        sent.append(value)
        answers = [value, value]
        answers[1 - rank] = next(told)
        return answers

    monkeypatch.setattr("refseg.distributed.gather", gather)
    monkeypatch.setattr("refseg.distributed.rank", lambda: rank)
    return sent


@pytest.mark.parametrize("rank", [0, 1])
def test_words_that_only_another_process_read_are_carried_too(monkeypatch, models, rank):
    assert "circle" not in carried(models[0])
    sent = gathering(monkeypatch, models, rank)
    vectors = [model.tokenize(phrases) for model, phrases in zip(models, PHRASES, strict=True)]
    share_extra_state(models[rank])
    assert len(sent) == 2
    assert carried(models[rank]) == ["a", "box", "circle", "left", "red", "the"]
    again = [models[rank].tokenize(phrases) for phrases in PHRASES]
    for before, after in zip(vectors, again, strict=True):
        assert torch.equal(before.values, after.values)


def test_processes_that_carry_the_same_send_nothing_large(monkeypatch, models):
    sent = []
    monkeypatch.setattr("refseg.distributed.gather", lambda value: sent.append(value) or [value, value])
    share_extra_state(models[0])
    assert [len(value) for value in sent] == [64]


def test_a_state_holds_the_words_of_all_processes(monkeypatch, models):
    engine = Engine(models[0], torch.optim.SGD(models[0].parameters(), lr=0.1))
    training = TrainState(models[0], engine, torch.amp.GradScaler("cpu", enabled=False))
    told = iter(("another digest", models[1].extra_state(), {}))
    monkeypatch.setattr("refseg.distributed.gather", lambda value: [value, next(told)])
    blueprint = json.loads(training.state()["blueprint"])
    assert "circle" in json.loads(blueprint["extra"]["word_vectors"])["tokens"]
