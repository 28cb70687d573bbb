"""What the benchmark counts: every stage once, on the road of predictions."""

import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from helpers.seeing import SeeingModel
from refseg.errors import InvalidInput, UnknownName
from refseg.evaluation import bench
from refseg.evaluation.bench import STAGES, Cost, Setting, measure, measure_here, open_predictor, report
from refseg.evaluation.machine import matrix_rate, this_machine
from refseg.predictor import Predictor

SLOW = 0.02


class SlowModel(SeeingModel):
    """Sleeps in three of its verbs, 1, 2 and 3 times as long."""

    def tokenize(self, phrases):
        return super().tokenize(["red"] * len(phrases))

    def encode_visual(self, clips):
        time.sleep(SLOW)
        return super().encode_visual(clips)

    def segment(self, visual, text):
        time.sleep(2 * SLOW)
        return super().segment(visual, text)

    def finish(self, output, placements, at="source"):
        time.sleep(3 * SLOW)
        self.choose(output)  # a verb inside a verb
        return super().finish(output, placements, at)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(
        bench, "open_predictor", lambda *_, **__: Predictor(SlowModel(), device="cpu", label="slow")
    )
    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 1e9)
    return measure_here(Setting("slow", height=31, width=47, frames=2, phrases=2, repeat=1))


def test_every_stage_is_measured_and_the_whole_is_their_sum(measured):
    assert set(measured.stages) == {*STAGES, "other", "whole"}
    *parts, whole = measured.stages.values()
    assert sum(part.milliseconds for part in parts) == pytest.approx(whole.milliseconds)


@pytest.mark.parametrize(("stage", "times"), [("visual", 1), ("segment", 2), ("finish", 3)])
def test_time_is_counted_where_it_is_spent(measured, stage, times):
    assert measured.stages[stage].milliseconds >= 1000 * times * SLOW
    assert measured.stages["whole"].milliseconds >= 6 * 1000 * SLOW


def test_waiting_costs_no_processor_time(measured):
    assert measured.stages["whole"].cpu_seconds < measured.stages["whole"].milliseconds / 1000


def test_a_further_phrase_does_not_pay_for_the_picture(measured):
    further, first = measured.further_phrase.milliseconds, measured.first_phrase.milliseconds
    assert further >= 5 * 1000 * SLOW
    assert first >= 6 * 1000 * SLOW


def test_the_model_keeps_no_trace_of_the_clock(monkeypatch):
    model = SlowModel()
    with bench._time_stages(model, bench._Clock(torch.device("cpu"))):
        assert "segment" in vars(model)
    assert not {"segment", "finish", "choose", "tokenize"} & set(vars(model))


def test_random_weights_are_called_random():
    predictor = open_predictor("scout/debug", device="cpu")
    assert "RANDOM" in predictor.label
    (answer,) = predictor(torch.zeros(3, 33, 41, dtype=torch.uint8), [bench.PHRASES[0]])
    assert answer.masks.shape == (1, 33, 41)


def test_an_unknown_variant_is_told_by_name():
    with pytest.raises(UnknownName, match=r"variant of scout.*'debug'"):
        open_predictor("scout/debgu")


def test_a_process_of_its_own_measures_and_its_refusal_comes_back():
    setting = Setting("scout/debug", height=40, width=50, repeat=1, device="cpu")
    measured = measure(setting)
    assert measured.setting == setting
    assert measured.peak_bytes >= measured.loaded_bytes > 50e6
    with pytest.raises(InvalidInput, match=r"^dtype 'float31'"):
        measure(Setting("scout/debug", dtype="float31", device="cpu"))


def test_the_report_tells_the_machine_and_its_matrix_rate(measured):
    text = report([measured])
    assert "float32 1 GFLOP/s" in text
    assert "slow: 2 frames 31x47, 2 phrases, float32 on cpu, median of 1" in text
    assert measured.machine.processor in text


def test_the_median_counts_and_not_the_mean():
    costs = [Cost(1, 1), Cost(2, 9), Cost(60, 2)]
    assert bench._median(costs) == Cost(2, 2)


def test_a_matrix_product_has_a_rate_and_the_machine_a_name():
    assert matrix_rate(torch.float32, seconds=0.0) > 1e8
    assert asdict(this_machine())["cores"] >= 1


def test_a_process_killed_by_the_system_says_so(monkeypatch):
    killed = SimpleNamespace(returncode=-9, stderr="", stdout="")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(InvalidInput, match="memory may have run out"):
        measure(Setting("scout/debug"))
