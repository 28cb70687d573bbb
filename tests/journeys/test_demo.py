"""`refseg demo` on examples made here, with a model whose answers are known."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.run_cli import load as load_seeing
from refseg.cli import demo, main
from refseg.errors import InvalidInput


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """Two pictures and a clip with their phrases, in place of those of the package."""
    folder = tmp_path / "examples"
    lines = [
        {"image": "images/a.png", "phrase": "the red", "no_target": True},
        {"image": "images/a.png", "phrase": "left", "no_target": True},
        {"image": "images/a.png", "phrase": "right", "no_target": True},
        {"frames": ["clip/0.png", "clip/1.png", "clip/2.png"], "phrase": "red", "no_target": True},
        {"image": "images/b.png", "phrase": "nothing", "no_target": True},
    ]
    for name in ("images/a.png", "images/b.png", "clip/0.png", "clip/1.png", "clip/2.png"):
        pixels = np.full((64, 96, 3), 90, np.uint8)
        pixels[5:40, 10:50] = (255, 0, 0)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(demo, "EXAMPLES", path)
    monkeypatch.setattr("refseg.predictor.load", load_seeing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["refseg", "demo", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def test_the_demo_answers_every_phrase_and_draws_one_sheet(examples, run):
    code, out, _ = run()
    assert code == 0
    names = sorted(p.name for p in (examples / "refseg-demo").iterdir())
    assert names == [
        "01-a--left.mask.png",
        "01-a--left.overlay.png",
        "01-a--right.mask.png",
        "01-a--right.overlay.png",
        "01-a--the-red.mask.png",
        "01-a--the-red.overlay.png",
        "02-clip--red.masks",
        "02-clip--red.overlay.mp4",
        "03-b--nothing.mask.png",
        "03-b--nothing.overlay.png",
        "demo.png",
        "results.jsonl",
    ]
    assert out.splitlines()[0].split() == ["phrase", "score", "mask"]
    assert out.splitlines()[1].split()[:2] == ["the", "red"]
    assert "01-a--the-red.mask.png" in out.splitlines()[1]


def test_the_sheet_shows_two_answers_about_each_picture(examples, run):
    run()
    sheet = Image.open(examples / "refseg-demo" / "demo.png")
    assert sheet.size == (4 * 332 + 12, 332 + 12)
    for tile in range(4):
        left = 12 + tile * 332
        assert np.asarray(sheet.crop((left, 12, left + 320, 332))).min() < 100


def test_the_demo_says_what_its_checkpoint_is(examples, run):
    _, out, _ = run()
    assert "not photographs" in out and "refseg models" in out


def test_the_demo_may_be_run_again(examples, run):
    run()
    before = sorted(p.name for p in (examples / "refseg-demo").iterdir())
    code, _, _ = run()
    assert code == 0
    assert sorted(p.name for p in (examples / "refseg-demo").iterdir()) == before
    assert len((examples / "refseg-demo" / "results.jsonl").read_text().splitlines()) == 5


def test_json_prints_the_records_and_nothing_else(examples, run):
    _, out, _ = run("--json")
    assert [json.loads(line)["phrase"] for line in out.splitlines()] == ["the red", "left", "right", "red", "nothing"]


def test_an_installation_without_examples_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="not in this installation"):
        demo.read_examples(tmp_path / "absent.jsonl")
