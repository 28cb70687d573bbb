"""`refseg data`: scenes drawn, files checked, sheets to look at."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.errors import InvalidInput, UnknownName

SMALL = ("--count", "3", "--size", "32", "--phrases", "2", "--sprites", "none")


def refseg_data(*words):
    load_verbs()
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def scenes(tmp_path):
    refseg_data("scenes", "--out", tmp_path / "scenes", *SMALL)
    return tmp_path / "scenes"


def test_scenes_are_written_in_a_form_that_the_check_finds_sound(scenes):
    done = refseg_data("check", scenes)
    assert done.exit_code == 0
    assert "6 phrases" in done.stdout
    assert "3 pictures" in done.stdout
    assert "0 errors" in done.stdout


def test_clips_are_written_and_checked_alike(tmp_path):
    refseg_data("scenes", "--out", tmp_path / "clips", *SMALL, "--frames", "2")
    report = json.loads(refseg_data("check", tmp_path / "clips", "--json").stdout)
    assert (report["clips"], report["frames"], report["findings"]) == (3, 6, [])


def test_a_wrong_line_ends_the_check_with_code_1(scenes):
    with (scenes / "phrases.jsonl").open("a") as file:
        file.write('{"image": "images/000000.png", "phrase": "x"}\n')
    done = refseg_data("check", scenes)
    assert done.exit_code == 1
    assert 'line 7: the line has no "mask"' in done.stdout
    assert "1 error," in done.stdout


def test_many_findings_are_counted_and_printed_when_asked(scenes):
    with (scenes / "phrases.jsonl").open("a") as file:
        file.write("{\n" * 30)
    assert "and 10 more" in refseg_data("check", scenes).stdout
    assert "line 36" in refseg_data("check", scenes, "--all").stdout


def test_scenes_are_not_overwritten(scenes):
    with pytest.raises(InvalidInput, match="exists already"):
        refseg_data("scenes", "--out", scenes, *SMALL)


def test_an_unknown_split_of_scenes_is_told_by_name(tmp_path):
    with pytest.raises(UnknownName, match="split of scenes named 'vall'"):
        refseg_data("scenes", "--out", tmp_path / "x", "--split", "vall", *SMALL)


def test_a_sheet_shows_every_phrase(scenes, tmp_path):
    out = tmp_path / "sheet.png"
    refseg_data("show", scenes, "--out", out, "--count", "2")
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 320  # four cells in a row: two pictures, two phrases each
    with pytest.raises(InvalidInput, match="--force"):
        refseg_data("show", scenes, "--out", out)
    with pytest.raises(InvalidInput, match=r"ends in \.png or \.html"):
        refseg_data("show", scenes, "--out", tmp_path / "sheet.jpg")
