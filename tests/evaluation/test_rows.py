"""An evaluation that was stopped goes on where it stopped, and nowhere else."""

import json

import pytest

from evaluation.test_run import ColumnPredictor, Columns, example
from refseg.errors import InvalidInput
from refseg.evaluation.records import Journal, read_rows
from refseg.evaluation.run import evaluate
from refseg.evaluation.table import result_table

HEADER = {"checkpoint": "x", "protocols": ["source"]}


def data():
    wrong = example("wrong", "column 1", "column 2", registers=("loc", "app"))
    wrong.masks[0, ..., 2] = True
    return Columns(
        [example("a", "column 1"), wrong, example("c", "column 3", "nothing"), example("d", "column 4")]
    )


class Killed(Exception):
    pass


class MortalPredictor(ColumnPredictor):
    """Dies when asked for the third time."""

    def segment(self, clip, phrases):
        if len(self.asked) == 2:
            raise Killed
        return super().segment(clip, phrases)


def run(path, predictor, *, resumes=False, dataset=None):
    with Journal(path, HEADER, resumes=resumes) as journal:
        return evaluate(predictor, dataset or data(), journal=journal)


@pytest.mark.parametrize("torn", ["", '{"index": 2, "na'])
def test_what_was_done_is_not_asked_again_and_scores_the_same(torn, tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        run(path, MortalPredictor())
    with path.open("a") as file:
        file.write(torn)
    predictor = ColumnPredictor()
    result = run(path, predictor, resumes=True)
    whole = evaluate(ColumnPredictor(), data())
    assert len(predictor.asked) == 2
    assert result.resumed == 2
    assert result.score() == whole.score()
    assert result.score("app") == whole.score("app")
    assert "2 examples from an earlier run" in result_table(result)
    assert len(path.read_text().splitlines()) == 5


def test_a_file_of_rows_is_not_overwritten(tmp_path):
    path = tmp_path / "rows.jsonl"
    run(path, ColumnPredictor())
    with pytest.raises(InvalidInput, match="--resume"):
        run(path, ColumnPredictor())


def test_rows_of_another_evaluation_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "rows.jsonl"
    run(path, ColumnPredictor())
    before = path.read_text()
    with pytest.raises(InvalidInput, match="checkpoint: x there, y now"):
        Journal(path, HEADER | {"checkpoint": "y"}, resumes=True)
    assert path.read_text() == before


@pytest.mark.parametrize("line", ["no json", "{}", "[]", '{"index": 1}', "null"])
def test_a_damaged_line_is_told_with_its_number(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    run(path, ColumnPredictor())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InvalidInput, match="line 3"):
        Journal(path, HEADER, resumes=True)


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", '{"form": "other"}\n', "\x00\x01\n"])
def test_a_foreign_file_is_no_file_of_rows(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"rows\.jsonl"):
        read_rows(path)
    if text:
        with pytest.raises(InvalidInput, match="another evaluation"):
            Journal(path, HEADER, resumes=True)
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "is_ours"), [("", True), ('{"check', True), ("precious", False), ("\x00" * 99, False)]
)
def test_a_file_without_a_line_is_taken_only_where_it_is_a_torn_header(text, is_ours, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    if is_ours:
        run(path, ColumnPredictor(), resumes=True)
        assert len(read_rows(path)[1]) == 4
        return
    with pytest.raises(InvalidInput, match="no header"):
        Journal(path, HEADER, resumes=True)
    assert path.read_text() == text


def test_an_evaluation_that_never_began_leaves_no_file(tmp_path):
    with Journal(tmp_path / "rows.jsonl", HEADER):
        pass
    assert not list(tmp_path.iterdir())


def test_rows_are_read_back_as_they_were(tmp_path):
    path = tmp_path / "rows.jsonl"
    result = run(path, ColumnPredictor())
    header, done = read_rows(path)
    assert header == HEADER
    assert done == result.done
    assert json.loads(path.read_text().splitlines()[1])["rows"][0]["views"]["source"] == [[5], [5], [5]]
