import tomllib

from refseg.checkpoints.cards import Card
from refseg.evaluation.model_card import card_tables

SCORE = {"mIoU": 0.7254, "oIoU": 0.5, "P@0.5": 1.0, "P@0.7": 0.25, "J": 0.1, "kept": 0.99, "refused": None}
RECORD = {
    "source": {"name": "scenes", "split": "val"},
    "data": {"examples": 10, "frames": 10, "phrases": 30, "shuffled_phrases": False},
    "dtype": "float32",
    "scores": {"loc": SCORE},
    "machine": {
        "refseg": "0.1.0",
        "date": "2026-11-21T10:00:00+00:00",
        "processor": 'An "odd" one',
        "threads": 2,
    },
}


def test_tables_hold_every_measured_number_in_percent():
    values = {t["metric"]: t["value"] for t in tomllib.loads(card_tables(RECORD))["checkpoint"]["measured"]}
    assert values == {"mIoU loc": 72.5, "oIoU loc": 50, "P@0.5 loc": 100, "P@0.7 loc": 25, "kept loc": 99}


def test_tables_are_a_part_of_a_card():
    measured = tomllib.loads(card_tables(RECORD))["checkpoint"]["measured"]
    card = Card.model_validate(
        {
            "name": "x",
            "family": "scout",
            "variant": "base",
            "trained_on": "scenes",
            "licence": "Apache-2.0",
            "source": {"repository": "here", "format": "native", "asset": "x.safetensors"},
            "measured": measured,
        }
    )
    assert card.measured[0].protocol == "10 examples, 30 phrases, masks at source size, float32"


def test_the_control_says_that_it_is_one():
    control = {**RECORD, "data": {**RECORD["data"], "shuffled_phrases": True}}
    assert 'dataset = "scenes, control"' in card_tables(control)


def test_j_is_told_of_clips_alone():
    clips = {**RECORD, "data": {**RECORD["data"], "frames": 60}}
    assert '"J loc"' in card_tables(clips)
    assert 'dataset = "scenes, clips"' in card_tables(clips)
    assert '"J loc"' not in card_tables(RECORD)


def test_numbers_of_other_protocols_carry_their_protocol():
    entry = {"means": "at the network's size", "scores": {"oIoU": 0.72731, "mAP": None}}
    record = {**RECORD, "protocols": {"source": {"means": "x", "scores": {"mIoU": 1.0}}, "refer": entry}}
    tables = tomllib.loads(card_tables(record))["checkpoint"]["measured"]
    (one,) = [table for table in tables if table["protocol"].startswith("refer: ")]
    assert (one["metric"], one["value"]) == ("oIoU", 72.73)
    assert one["protocol"] == "refer: at the network's size; 30 phrases"
    assert len(tables) == 6
