"""The model card: valid front matter, the evaluation's own numbers, and a person's words that stay."""

import json
import math

import pytest
import yaml
from huggingface_hub import ModelCard

from evaluation.test_trust import ROWS, result, row
from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.evaluation import model_card
from refseg.evaluation.machine import this_machine
from refseg.evaluation.model_card import card_page
from refseg.evaluation.table import result_record, result_table
from refseg.models import catalog

MODEL = {
    "file": "best.safetensors",
    "bytes": 123_456,
    "family": "scout",
    "variant": "debug",
    "sha256": "ab" * 32,
    "version": "0.1.0",
    "origin": {"recipe": "toys", "step": "9"},
    "parameters": 54_321,
    "frame": {"fit": "letterbox", "size": 64},
    "words": 12,
}
LICENCE = {"id": "apache-2.0", "name": "Apache-2.0", "told": "Apache.", "rests_on": []}


def found(*rows, split="val", sha256=MODEL["sha256"], is_shuffled=False):
    made = result(*(rows or ROWS))
    made.is_shuffled = is_shuffled
    facts = {
        "checkpoint": {"name": "best.safetensors", "sha256": sha256},
        "source": {"name": "toys", "split": split},
        "dtype": "float32",
    }
    record = json.loads(json.dumps(result_record(made, this_machine(), **facts), allow_nan=False))
    return model_card.result_facts(made, record, ())


def facts_of(*results, name="toys", **changes):
    facts = model_card.first_facts(name, MODEL | changes, LICENCE)
    for one in results:
        facts = model_card.with_result(facts, one)
    return facts


def front_matter(page):
    _, text, _ = page.split("---\n", 2)
    return yaml.safe_load(text)


def numbers_of(page):
    (model,) = front_matter(page)["model-index"]
    return {
        (one["dataset"]["split"], metric["name"]): metric["value"]
        for one in model["results"]
        for metric in one["metrics"]
    }


def test_every_number_of_the_front_matter_is_the_evaluations():
    one = found()
    numbers = numbers_of(card_page(facts_of(one)))
    scores = one["protocols"]["source"]["scores"]
    assert numbers.pop(("val", "ECE of existence (15 bins)")) == pytest.approx(22.0)
    assert numbers.pop(("val", "ECE of hit (15 bins)")) == pytest.approx(47.0)
    assert numbers == {
        ("val", f"{metric} (source)"): round(100 * value, 2)
        for metric, value in scores.items()
        if value is not None
    }
    assert numbers["val", "mIoU (source)"] == 25.0  # one half and nothing


def test_the_page_shows_the_table_that_the_evaluation_prints():
    assert result_table(result(*ROWS)) in card_page(facts_of(found()))


def test_what_was_not_measured_has_no_number():
    nothing = row(0.5, 0, 0, 0)  # without a target there is no overlap
    numbers = numbers_of(card_page(facts_of(found(nothing))))
    assert ("val", "mIoU (source)") not in numbers
    assert numbers["val", "refused (source)"] == 100.0
    assert all(math.isfinite(value) for value in numbers.values())


def test_hubs_read_the_card():
    card = ModelCard(card_page(facts_of(found(), found(split="new"))))
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.library_name == "refseg"
    assert card.data.license == "apache-2.0"
    assert {(one.dataset_type, one.dataset_split) for one in card.data.eval_results} == {
        ("toys", "val"),
        ("toys", "new"),
    }
    assert card.data.model_name == "toys"


@pytest.mark.parametrize(
    "name", ["a: b", "#1 'x' \"y\"", "- yes", "---", "null", "Zürich 1e3", "back\\slash", "{a}"]
)
def test_any_name_survives_the_front_matter(name):
    told = front_matter(card_page(facts_of(found(), name=name)))
    assert told["model-index"][0]["name"] == name


def test_a_card_without_numbers_says_why():
    facts = facts_of() | {"unmeasured": "the evaluation failed (no room)"}
    page = card_page(facts)
    assert "Nothing was measured: the evaluation failed (no room)." in page
    assert "model-index" not in front_matter(page)


def test_a_second_part_is_added_and_the_same_one_replaced():
    better = found(row(0.9, 90, 90, 100))
    facts = facts_of(found(), found(split="new"), better)
    assert [one["source"]["split"] for one in facts["results"]] == ["new", "val"]
    assert numbers_of(card_page(facts))["val", "mIoU (source)"] == 90.0


def test_the_control_is_shown_as_one_and_is_no_result():
    page = card_page(facts_of(found(), found(is_shuffled=True)))
    assert "the control: every phrase" in page
    assert len(front_matter(page)["model-index"][0]["results"]) == 1


def test_numbers_of_other_weights_do_not_enter():
    with pytest.raises(InvalidInput, match="of other weights"):
        facts_of(found(sha256="cd" * 32))


def test_a_phrase_cannot_break_out_of_the_text():
    odd = row(0.5, 5, 5, 10)
    odd.phrase = 'the "```" sign'
    page = card_page(facts_of(found(odd)))
    assert f"[{json.dumps(odd.phrase)}]" in page
    assert "````python" in page


def test_words_below_the_marker_survive_a_second_writing(tmp_path):
    page = tmp_path / "README.md"
    model_card.write_card(page, facts_of(found()))
    page.write_text(page.read_text() + "Mine: do not lose me.\n")
    model_card.write_card(page, facts_of(found(split="new")))
    text = page.read_text()
    assert text.endswith(f"{model_card.MARKER}\nMine: do not lose me.\n")
    assert "toys new" in text
    assert "toys val" not in text
    model_card.write_card(page, facts_of(found(split="new")))
    assert page.read_text() == text


def test_a_page_of_somebody_elses_is_kept_below_the_card(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# My notes\n")
    model_card.write_card(page, facts_of())
    above, below = page.read_text().split(model_card.MARKER)
    assert front_matter(above)["library_name"] == "refseg"
    assert below == "\n\n# My notes\n"


def test_facts_and_page_tell_the_same(tmp_path):
    facts = facts_of(found())
    model_card.write_card(tmp_path / "README.md", facts)
    stored = json.loads((tmp_path / "card.json").read_text())
    assert stored == facts
    assert (tmp_path / "README.md").read_text().startswith(card_page(stored))
    model_card.write_card(tmp_path / "other.md", facts)
    assert (tmp_path / "other.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "card.json",
        "other.json",
        "other.md",
    ]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "some.safetensors"
    native.save(
        path, catalog.build("scout", "debug"), family="scout", variant="debug", origin={"recipe": "toys"}
    )
    return path


def test_an_evaluation_begins_a_card_and_the_next_one_adds_to_it(checkpoint, tmp_path):
    sha256 = native.read_header(checkpoint).sha256
    page = tmp_path / "README.md"
    model_card.add_to_card(page, str(checkpoint), checkpoint, 7, found(sha256=sha256))
    model_card.add_to_card(page, str(checkpoint), checkpoint, 7, found(sha256=sha256, split="new"))
    assert {split for split, _ in numbers_of(page.read_text())} == {"val", "new"}
    told = front_matter(page.read_text())
    assert (told["license"], told["license_name"]) == ("other", "see-the-card")
    assert f"knows {len(native.read_header(checkpoint).config['vocabulary'])} words" in page.read_text()


def test_the_card_of_other_weights_is_begun_anew(checkpoint, tmp_path):
    page = tmp_path / "README.md"
    model_card.write_card(page, facts_of(found()))
    sha256 = native.read_header(checkpoint).sha256
    model_card.add_to_card(page, str(checkpoint), checkpoint, 7, found(sha256=sha256, split="new"))
    assert {split for split, _ in numbers_of(page.read_text())} == {"new"}


def test_a_file_that_is_no_card_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "card.json").write_text('{"precious": 1}')
    sha256 = native.read_header(checkpoint).sha256
    with pytest.raises(InvalidInput, match="is no model card"):
        model_card.add_to_card(tmp_path / "README.md", str(checkpoint), checkpoint, 7, found(sha256=sha256))
    assert json.loads((tmp_path / "card.json").read_text()) == {"precious": 1}
