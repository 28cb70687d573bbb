"""The log tells every step once, and stops a run whose loss is no number."""

import json

import pytest
import torch

from refseg.errors import InvalidInput
from refseg.training.log import Log, cut_log
from refseg.training.run_folder import LOG_NAME

FACTS = {"lr": 0.001, "seconds": 0.5, "waiting": 0.25}


def terms(loss, norm=1.0):
    return {"loss": torch.tensor(loss), "mask_0": torch.tensor(0.125), "norm": torch.tensor(norm)}


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]


def test_every_step_is_a_line_of_the_file_and_an_interval_is_a_line_on_the_terminal(tmp_path, capsys):
    log = Log(tmp_path, total=10)
    log.step(1, terms(2.0), FACTS)
    log.step(2, terms(4.0), FACTS)
    log.flush()
    log.close()
    assert lines_of(tmp_path)[1] == {"step": 2, **FACTS, "loss": 4.0, "mask_0": 0.125, "norm": 1.0}
    told = capsys.readouterr().err.splitlines()
    assert told == ["step 2/10  loss 3.0000  norm 1.00  lr 1.00e-03  0.500 s/step  data 25%  left 0m04s"]


def test_a_quiet_run_prints_nothing(tmp_path, capsys):
    log = Log(tmp_path, total=10, is_quiet=True)
    log.step(1, terms(2.0), FACTS)
    log.flush()
    log.result(1, {"mIoU": 0.5})
    assert capsys.readouterr().err == ""
    assert lines_of(tmp_path)[1] == {"step": 1, "evaluation": {"mIoU": 0.5}}


@pytest.mark.parametrize("broken", [terms(float("nan")), terms(float("inf")), terms(1.0, norm=float("nan"))])
def test_a_number_that_is_none_stops_the_run_with_its_step(tmp_path, broken):
    log = Log(tmp_path, total=10)
    log.step(6, terms(2.0), FACTS)
    log.step(7, broken, FACTS)
    with pytest.raises(InvalidInput, match=r"(loss|norm) became (nan|inf) at step 7; .*optimizer.lr"):
        log.flush()


def test_a_gradient_too_large_for_float16_is_no_mistake(tmp_path):
    log = Log(tmp_path, total=10, is_quiet=True, may_overflow=True)
    log.step(7, terms(1.0, norm=float("inf")), FACTS)
    log.flush()
    assert lines_of(tmp_path)[0]["norm"] is None


def test_lines_after_the_resumed_step_and_half_lines_go(tmp_path):
    kept = ['{"step": 1}', '{"step": 2}', '{"step": 2, "evaluation": {}}']
    (tmp_path / LOG_NAME).write_text("\n".join([*kept, '{"step": 3}', '{"step": 4, "lo']))
    cut_log(tmp_path, 2)
    assert (tmp_path / LOG_NAME).read_text().splitlines() == kept


def test_a_run_without_a_log_has_nothing_to_cut(tmp_path):
    cut_log(tmp_path, 2)
    assert not (tmp_path / LOG_NAME).exists()


def test_skipped_examples_are_counted_by_step_and_by_interval(tmp_path, capsys):
    log = Log(tmp_path, total=9)
    for step, facts in ((1, {"skipped": 2}), (2, {"skipped": 1}), (3, {})):  # the last line knows of none
        log.step(step, terms(1.0), FACTS | facts)
    log.flush()
    log.close()
    assert [line.get("skipped") for line in lines_of(tmp_path)] == [2, 1, None]
    assert capsys.readouterr().err.rstrip().endswith("skipped 3")
