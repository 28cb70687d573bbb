"""What a run tells at its end: a table, summary.json, and event files for TensorBoard."""

import json
import signal
import struct
import sys

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.training import loop
from refseg.training.final_report import table
from refseg.training.loop import train
from refseg.training.recipe import read_recipe
from refseg.training.signals import Interrupted

RECIPE = """
family = "scout"
variant = "debug"
objective = "naming"
[model]
num_nouns = 300
num_colours = 20
[data]
name = "scenes"
phrases = 1
[optimizer]
lr = 1e-3
[run]
steps = 6
batch_size = 2
evaluate_every = 2
evaluate_examples = 2
save_every = 3
log_every = 2
tensorboard = true
final_protocols = "none"
"""


def run_of(folder, *overrides):
    (folder / "recipe.toml").write_text(RECIPE)
    return read_recipe(folder / "recipe.toml", overrides)


def go(run, folder):
    return train(run, folder, device=torch.device("cpu"))


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stop_after(monkeypatch, step):
    one_step = loop._one_step

    def stopping(training, *rest):
        one_step(training, *rest)
        if training.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "_one_step", stopping)


def events(folder):
    """What TensorBoard shows: scalars by name and step, without those that a later file withdraws; twice is a mistake."""
    pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    shown = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        rest = path.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])
            event, rest = pb2.Event.FromString(rest[12 : 12 + length]), rest[16 + length :]
            if event.HasField("session_log") and event.session_log.status == pb2.SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in shown, "a step is shown twice"
                shown[value.tag, event.step] = value.simple_value
    return shown


def test_the_summary_says_what_the_log_says(tmp_path, capsys):
    last = go(run_of(tmp_path), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    log = log_of(tmp_path / "run")
    steps = [line for line in log if "loss" in line]
    measured = {line["step"]: line["evaluation"] for line in log if "evaluation" in line}
    assert found["first"]["loss"] == pytest.approx((steps[0]["loss"] + steps[1]["loss"]) / 2)
    assert found["last"]["noun"] == pytest.approx((steps[4]["noun"] + steps[5]["noun"]) / 2)
    assert set(found["last"]) == {"loss", "noun", "colour"}
    assert (found["ended"], found["step"], found["steps"], found["skipped"]) == ("finished", 6, 6, 0)
    best = min(measured, key=lambda step: measured[step]["loss"])
    assert found["best_step"] == best
    assert found["best_by"] == "loss"
    assert found["best_score"] == pytest.approx(measured[best]["loss"], rel=1e-4)
    assert found["best_scores"] == pytest.approx(measured[best], rel=1e-4)
    assert found["last_scores"] == pytest.approx(measured[6], rel=1e-4)
    assert found["seconds"] == pytest.approx(sum(step["seconds"] for step in steps), abs=2e-3)
    assert found["files"]["last"] == str(last)
    told = capsys.readouterr().err
    for line in table(found):
        assert line in told


def test_a_table_is_read_down_its_columns():
    found = {
        "run": "mine", "ended": "early", "step": 40, "steps": 100, "seconds": 80.0, "data_share": 0.25, "skipped": 2,
        "first": {"loss": 6.25, "dice": 1.5}, "last": {"loss": 2.5, "dice": 0.5}, "best_step": 20,
        "best_scores": {"mIoU": 0.5, "mIoU app": 0.625}, "last_scores": {"mIoU": 0.25},
        "files": {"best": "runs/mine/best.safetensors"},
    }  # fmt: skip
    assert table(found) == [
        "mine ended early, for want of a gain, after step 40 of 100: 1m20s of steps, 2.000 s each, 25% of it waiting for "
        "data; loss 6.25 to 2.5",
        "      first  last",
        "loss   6.25   2.5",
        "dice    1.5   0.5",
        "          best, step 20  last measured",
        "mIoU                0.5           0.25",
        "mIoU app          0.625              -",
        "2 examples were skipped; log.jsonl counts them by step",
        "best: runs/mine/best.safetensors",
    ]


def test_a_run_that_is_stopped_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        go(run_of(tmp_path), tmp_path / "run")
    assert "recipe was asked to stop after step 3 of 6: " in capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (found["ended"], found["step"]) == ("stopped", 3)


def test_event_files_show_what_the_log_holds_also_after_a_stop(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            go(run_of(tmp_path), tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(_earlier_state(tmp_path))
    go(run_of(tmp_path), tmp_path / "run")
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 2
    shown = events(tmp_path / "run")
    for line in log_of(tmp_path / "run"):
        for name, value in line.get("evaluation", {}).items():
            assert shown.pop((f"evaluation/{name}", line["step"])) == pytest.approx(value, rel=1e-4)
        if "loss" in line:
            for name in ("loss", "noun", "colour"):
                assert shown.pop((f"loss/{name}", line["step"])) == pytest.approx(line[name], rel=1e-4)
            for name in ("lr", "norm", "seconds", "waiting"):
                assert shown.pop((f"step/{name}", line["step"])) == pytest.approx(line[name], rel=1e-4)
    assert not shown


def _earlier_state(folder):
    """The state of the same run after step 3: as if the run had been killed after step 5."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            go(run_of(folder, "run.tensorboard=false"), folder / "earlier")
    return (folder / "earlier" / "state.pt").read_bytes()


def test_without_the_library_the_run_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InvalidInput, match=r"pip install 'refseg\[train\]'"):
        go(run_of(tmp_path), tmp_path / "run")


def test_the_best_of_an_objective_may_be_one_of_its_terms(tmp_path):
    go(run_of(tmp_path, "run.best_by=colour", "run.tensorboard=false"), tmp_path / "run")
    measured = {line["step"]: line["evaluation"] for line in log_of(tmp_path / "run") if "evaluation" in line}
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["best_step"] == min(measured, key=lambda step: measured[step]["colour"])
    assert found["best_by"] == "colour"
    assert found["best_score"] == pytest.approx(measured[found["best_step"]]["colour"], rel=1e-4)
    assert not list((tmp_path / "run").glob("events*"))
    with pytest.raises(InvalidInput, match=r"run.best_by is 'oIoU', and .* knows loss, noun, colour"):
        go(run_of(tmp_path, "run.best_by=oIoU"), tmp_path / "other")
