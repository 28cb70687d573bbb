"""What an evaluation says of its scores: both readings, in every form that it is told."""

import json
import re
import tomllib
import xml.etree.ElementTree as xml

import pytest

from refseg.evaluation.calibration import diagrams
from refseg.evaluation.machine import this_machine
from refseg.evaluation.model_card import card_tables
from refseg.evaluation.records import ExampleRecord, PhraseRecord
from refseg.evaluation.run import Result
from refseg.evaluation.table import result_record, result_table


def row(score, shared, answer, target, says_nothing=None):
    counts = {"source": [[shared], [answer], [target]]}
    return PhraseRecord(0, "a phrase", "", score, counts, says_nothing=says_nothing)


def result(*rows):
    return Result("toys", done=[ExampleRecord(0, "one", 1, [10, 10], list(rows))])


ROWS = (
    row(0.95, 50, 50, 100),  # there, and exactly half of it found
    row(0.90, 0, 40, 100),  # there, and missed
    row(0.88, 0, 30, 0),  # absent, and answered
    row(0.05, 0, 0, 0),  # absent, and refused
)


def test_both_readings_are_those_worked_out_by_hand():
    trust = result(*ROWS).trust()
    assert (trust.existence.phrases, trust.existence.events) == (4, 2)
    assert trust.hit.events == 1
    # Bins of a fifteenth: 0.95 alone, 0.90 and 0.88 together, 0.05 alone.
    assert trust.existence.ece == pytest.approx(0.25 * 0.05 + 0.5 * (0.89 - 0.5) + 0.25 * 0.05)
    assert trust.hit.ece == pytest.approx(0.25 * 0.05 + 0.5 * 0.89 + 0.25 * 0.05)
    assert trust.existence.brier == pytest.approx((0.05**2 + 0.1**2 + 0.88**2 + 0.05**2) / 4)


def test_what_the_data_set_states_goes_before_an_empty_mask():
    hidden = row(0.9, 0, 0, 0, says_nothing=False)  # the object is there, and out of sight in these frames
    assert result(hidden).trust().existence.events == 1
    assert result(row(0.9, 0, 0, 5, says_nothing=True)).trust().existence.events == 0


def test_the_table_has_a_row_a_reading():
    lines = result_table(result(*ROWS)).splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("score, taken as"))
    assert "(15 bins)" in lines[head]
    assert lines[head + 1].split()[-6:] == ["4", "50.0", "69.5", "22.0", "27.0", "0.197"]
    assert lines[head + 2].startswith("the mask has IoU >= 0.5")


def test_a_dash_stands_where_the_checkpoint_gives_no_score():
    silent = result(row(None, 5, 5, 10))
    assert silent.trust() is None
    assert re.search(r"gives none\)( +-){6}\n", result_table(silent))
    assert result_record(silent, this_machine())["calibration"] is None


def test_the_control_has_none():
    control = result(*ROWS)
    control.is_shuffled = True
    assert control.trust() is None
    assert "ECE" not in result_table(control)


def test_the_record_holds_the_reliability_table_as_json():
    record = json.loads(json.dumps(result_record(result(*ROWS), this_machine()), allow_nan=False))
    found = record["calibration"]["existence"]
    assert (found["phrases"], found["true"], len(found["bins"])) == (4, 2, 15)
    assert sum(one["count"] for one in found["bins"]) == 4
    assert found["bins"][5]["share"] is None
    assert found["ece"] == result(*ROWS).trust().existence.ece


def test_a_card_holds_the_error_with_its_bins():
    made = result(*ROWS)
    facts = {"source": {"name": "toys"}, "dtype": "float32"}
    tables = tomllib.loads(card_tables(result_record(made, this_machine(), **facts)))
    values = {table["metric"]: table["value"] for table in tables["checkpoint"]["measured"]}
    assert values["ECE existence (15 bins)"] == pytest.approx(100 * made.trust().existence.ece, abs=0.005)
    assert values["Brier hit"] == pytest.approx(made.trust().hit.brier, abs=5e-5)


def test_the_diagram_draws_every_bin_at_its_height():
    page = xml.fromstring(f"<p>{diagrams(result(*ROWS).trust())}</p>")
    existence, hit = page
    assert "ECE 22.0 %, 4 phrases" in existence.get("aria-label")
    bars = [box for box in existence.iter("rect") if box.get("fill") == "#3b78c4"]
    frame = next(box for box in existence.iter("rect") if box.get("fill") == "none")
    heights = [float(box.get("height")) / float(frame.get("height")) for box in bars]
    assert heights == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
    assert "IoU >= 0.5" in hit.get("aria-label")


def test_of_a_clip_in_pieces_the_surest_piece_counts():
    from refseg.evaluation.run import _higher_score

    assert _higher_score(None, 0.2) == 0.2
    assert _higher_score(0.7, 0.2) == 0.7
    assert _higher_score(0.1, 0.2) == 0.2
    assert _higher_score(None, None) is None
