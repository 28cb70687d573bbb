"""`refseg bench`: which settings are measured, and what is refused."""

import json

import pytest
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput
from refseg.evaluation import bench
from refseg.evaluation.bench import Cost, Measurement
from refseg.evaluation.machine import this_machine


@pytest.fixture
def settings(monkeypatch):
    """The settings that would be measured."""
    asked = []

    def measure(setting):
        asked.append(setting)
        stages = {name: Cost(1.0, 0.001) for name in (*bench.STAGES, "other", "whole")}
        return Measurement(
            setting, "toy", stages, Cost(2, 0), Cost(4, 0), 10, 20, None, {"float32": 1e9}, this_machine()
        )

    monkeypatch.setattr(bench, "measure", measure)
    return asked


def refseg_bench(*words):
    load_verbs()
    done = CliRunner().invoke(app, ["bench", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_every_combination_is_measured(settings):
    text = refseg_bench(
        "toy", "--size", "360x640", "--size", "96X64", "--frames", "5", "--phrases", "1", "--phrases", "8"
    )
    assert len(settings) == 2 * 1 * 2 * 2
    assert {(s.height, s.width) for s in settings} == {(360, 640), (96, 64)}
    assert {s.dtype for s in settings} == {"float32", "bfloat16"}
    assert {(s.frames, s.phrases) for s in settings} == {(5, 1), (5, 8)}
    assert "50% of the first" in text


def test_json_holds_every_measurement(settings):
    record = json.loads(refseg_bench("toy", "--dtype", "float32", "--json"))
    (measured,) = record["measurements"]
    assert measured["setting"]["height"] == 480
    assert measured["stages"]["visual"] == {"milliseconds": 1.0, "cpu_seconds": 0.001}


@pytest.mark.parametrize(
    "words", [("--size", "480"), ("--size", "0x10"), ("--frames", "0"), ("--phrases", "0")]
)
def test_what_cannot_be_measured_is_refused_at_once(settings, words):
    with pytest.raises(InvalidInput, match=words[0]):
        refseg_bench("toy", *words)
    assert settings == []
