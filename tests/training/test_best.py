"""Which measurements count: several best checkpoints, an end after too many without a gain, and what a resumed run knows."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.training import loop
from refseg.training.loop import train
from refseg.training.recipe import read_recipe
from refseg.training.schema import RunSection
from refseg.training.signals import Interrupted
from refseg.training.state import BestScores
from refseg.training.validation import Measurement

RECIPE = """
family = "scout"
variant = "debug"
[data]
name = "scenes"
phrases = 1
[optimizer]
lr = 1e-3
[run]
steps = 8
batch_size = 1
evaluate_every = 1
evaluate_examples = 1
save_every = 4
log_every = 1
final_protocols = "none"
"""


def settings(**own):
    return RunSection(steps=9, batch_size=1, evaluate_every=1, **own)


def noted(qualities, **own):
    kept = BestScores()
    bests = [
        kept.note(quality, step, {"mIoU": quality}, settings(**own))
        for step, quality in enumerate(qualities, start=1)
    ]
    return kept, bests


def test_the_best_of_equal_measurements_is_the_first():
    kept, bests = noted([0.1, 0.3, 0.3, 0.2], keep_best=3)
    assert bests == [True, True, False, False]
    assert kept.ranking == [(0.3, 2), (0.3, 3), (0.2, 4)]
    assert (kept.best, kept.best_scores, kept.scores) == (0.3, {"mIoU": 0.3}, {"mIoU": 0.2})


def test_a_run_ends_after_so_many_measurements_without_a_gain():
    ends = [
        noted([0.1, 0.3, 0.2, 0.3, 0.1][:n], patience=3)[0].has_ended(settings(patience=3)) for n in range(6)
    ]
    assert ends == [False, False, False, False, False, True]
    assert not noted([0.3, 0.2, 0.1])[0].has_ended(settings())


def test_small_gains_add_up_until_they_count():
    kept, bests = noted([0.10, 0.11, 0.12, 0.13], patience=9, min_gain=0.02)
    assert bests == [True] * 4  # each is the best checkpoint, though no gain
    assert (kept.gained, kept.stale) == (0.13, 0)
    assert noted([0.10, 0.11, 0.12], patience=9, min_gain=0.02)[0].stale == 2


def test_what_is_kept_survives_as_plain_data():
    kept, _ = noted([0.1, 0.3, 0.2], keep_best=2)
    assert BestScores.of({"kept": json.loads(json.dumps(kept.state()))}) == kept


def run_of(folder, *overrides):
    (folder / "recipe.toml").write_text(RECIPE)
    return read_recipe(folder / "recipe.toml", overrides)


@pytest.fixture
def scripted(monkeypatch):
    """Measurements that give the qualities of a list by their step."""

    def use(qualities):
        told = []

        def measured(model, examples, *, device, best_by):
            quality = qualities[len(told)]
            told.append(quality)
            return Measurement({"mIoU": quality}, quality)

        monkeypatch.setattr(loop, "measure_phrases", measured)

    return use


def go(run, folder):
    return train(run, folder, device=torch.device("cpu"), is_quiet=True)


def step_of(path):
    return native.read_header(path).origin["step"]


def same(one, other):
    first, second = load_file(one), load_file(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_so_many_stay_each_with_its_step(tmp_path, scripted):
    scripted([0.1, 0.5, 0.2, 0.4, 0.3, 0.1, 0.1, 0.05])
    go(run_of(tmp_path, "run.keep_best=3"), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").glob("best*"))
    assert names == [f"best-at-{step}.safetensors" for step in (2, 4, 5)] + ["best.safetensors"]
    assert {step_of(tmp_path / "run" / f"best-at-{step}.safetensors") for step in (2, 4, 5)} == {
        "2",
        "4",
        "5",
    }
    assert same(tmp_path / "run" / "best.safetensors", tmp_path / "run" / "best-at-2.safetensors")


def test_a_run_that_gains_nothing_ends_early_and_stays_ended(tmp_path, scripted):
    scripted([0.1, 0.5, 0.2, 0.4, 0.3, 0.1, 0.1])
    run = run_of(tmp_path, "run.patience=3")
    last = go(run, tmp_path / "run")
    assert step_of(last) == "5"
    before = last.read_bytes()
    go(run, tmp_path / "run")
    assert last.read_bytes() == before
    scripted([0.3, 0.3, 0.3])
    go(run_of(tmp_path, "run.patience=0"), tmp_path / "run")  # more patience: the run goes on where it was
    assert step_of(last) == "8"


def test_without_links_the_best_is_written_twice(tmp_path, scripted, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    scripted([0.1, 0.5])
    go(run_of(tmp_path, "run.keep_best=2", "run.steps=2", "run.save_every=2"), tmp_path / "run")
    assert same(tmp_path / "run" / "best.safetensors", tmp_path / "run" / "best-at-2.safetensors")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_run_that_was_stopped_keeps_the_same_ones(tmp_path, scripted, monkeypatch):
    qualities = [0.1, 0.5, 0.2, 0.4, 0.3, 0.6, 0.1, 0.05]
    scripted(qualities)
    go(run_of(tmp_path, "run.keep_best=2"), tmp_path / "whole")
    scripted(qualities)
    with monkeypatch.context() as patch:
        one_step = loop._one_step

        def stopping(training, *rest):
            one_step(training, *rest)
            if training.step == 5:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(loop, "_one_step", stopping)
        with pytest.raises(Interrupted):
            go(run_of(tmp_path, "run.keep_best=2"), tmp_path / "parts")
    stray = tmp_path / "parts" / "best-at-7.safetensors"
    stray.write_bytes(b"of a step that a killed run had reached")
    scripted(qualities[4:])  # the fifth was still owed
    go(run_of(tmp_path, "run.keep_best=2"), tmp_path / "parts")
    names = [sorted(p.name for p in (tmp_path / part).glob("best*")) for part in ("whole", "parts")]
    assert names[0] == names[1] == ["best-at-2.safetensors", "best-at-6.safetensors", "best.safetensors"]
    for name in names[0]:
        assert same(tmp_path / "whole" / name, tmp_path / "parts" / name)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.patience=2", "run.evaluate_every=0"], "patience counts measurements"),
        (["run.patience=2", "run.evaluate_examples=0"], "evaluate_examples = 0 makes none"),
        (["run.keep_best=2", "run.evaluate_examples=0"], "evaluate_examples = 0 makes none"),
        (["run.min_gain=0.1"], "min_gain is what patience waits for"),
        (["run.keep_best=0"], "run.keep_best"),
    ],
)
def test_settings_that_do_nothing_are_refused(tmp_path, overrides, said):
    with pytest.raises(InvalidInput, match=said):
        run_of(tmp_path, *overrides)
