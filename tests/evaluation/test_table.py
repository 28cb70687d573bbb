"""Results as a table and as plain data."""

import json
import math

import torch

from refseg.evaluation.machine import this_machine
from refseg.evaluation.records import ExampleRecord, PhraseRecord
from refseg.evaluation.run import Result
from refseg.evaluation.table import aligned, result_record, result_table


def row(answered, target, register, frames=1):
    counts = [[min(answered, target)] * frames, [answered] * frames, [target] * frames]
    return PhraseRecord(0, "a phrase", register, None, {"source": counts})


def result(*, frames=3):
    rows = [row(5, 10, "loc"), row(10, 10, "loc"), row(0, 0, "none"), row(4, 0, "none")]
    parts = [rows[:2], rows[2:3], rows[3:]]
    seconds = {"predicting_seconds": 2 / 3, "reading_seconds": 0.5 / 3}
    return Result(
        "toys",
        done=[
            ExampleRecord(n, str(n), frames // 3, [1, 10], part, **seconds) for n, part in enumerate(parts)
        ],
    )


def rows_of(table):
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()}


def test_the_table_has_a_row_a_register_and_one_for_all_in_percent():
    rows = rows_of(result_table(result()))
    assert rows["loc"] == ["2", "75.0", "75.0", "100.0", "50.0", "50.0", "50.0", "50.0", "100.0", "0", "-"]
    assert rows["none"] == ["0", *["-"] * 8, "2", "50.0"]
    assert rows["all"] == ["2", *rows["loc"][1:-2], "2", "50.0"]


def test_the_table_tells_the_protocol_and_the_speed():
    table = result_table(result())
    assert "IoU >= X" in table
    assert "1.5 frames/s, 2.0 phrases/s" in table


def test_j_stands_in_the_table_of_clips_only():
    assert " J " not in result_table(result()).splitlines()[0]
    assert " J " in result_table(result(frames=9)).splitlines()[0]


def test_the_control_is_called_one():
    made = result()
    made.is_shuffled = True
    assert result_table(made).startswith("CONTROL")


def test_phrases_without_a_register_have_no_row_of_their_own():
    made = Result("toys", done=[ExampleRecord(0, "0", 1, [1, 10], [row(5, 10, "")])])
    assert set(rows_of(result_table(made))) >= {"register", "all"}
    assert "(none" not in result_table(made)
    made.done[0].rows.append(row(5, 10, "loc"))
    assert "(none named)" in result_table(made)


def test_the_record_is_plain_json_with_null_where_nothing_was_measured():
    record = json.loads(
        json.dumps(result_record(result(), this_machine(), checkpoint={"name": "x"}), allow_nan=False)
    )
    assert record["checkpoint"] == {"name": "x"}
    assert record["scores"]["loc"]["mIoU"] == 0.75
    assert record["scores"]["loc"]["P@0.9"] == 0.5
    assert record["scores"]["none"]["mIoU"] is None
    assert record["scores"]["all"]["refused"] == 0.5
    assert record["speed"]["phrases_per_second"] == 2.0
    assert record["machine"]["torch"] == torch.__version__


def test_nothing_asked_has_no_speed():
    empty = Result(data="toys")
    assert math.isnan(empty.score().miou)
    assert "- frames/s" in result_table(empty)


def test_columns_are_aligned_right_but_the_first():
    assert aligned([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"
