"""`refseg data show`: the first, random or named samples, as a picture or a page."""

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.data.catalog import open_dataset
from refseg.errors import InvalidInput

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"


def run(*words):
    load_verbs()
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def show(*words):
    run("show", *words)


def captions(path):
    return re.findall(r"<figcaption>(.*?)<br><span>(.*?)</span>", path.read_text())


@pytest.fixture
def root(tmp_path):
    shutil.copytree(CASES / "grefcoco", tmp_path / "c")
    return tmp_path / "c"


def test_a_page_holds_every_picture_and_tells_where_nothing_answers(root, tmp_path):
    out = tmp_path / "sheet.html"
    show("grefcoco", "--root", root, "--split", "train", "--out", out, "--count", "99")
    data = list(open_dataset("grefcoco", split="train", root=root))
    told = captions(out)
    assert len(told) == sum(len(example.phrases) for example in data)
    empty = sum(int(example.no_target.sum()) for example in data)
    assert sum("no target" in line for _, line in told) == empty > 0
    pictures = re.findall(r"base64,([^\"]+)", out.read_text())
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size == (data[0].frames.shape[-1], data[0].frames.shape[-2])


def test_samples_are_named_by_picture_object_or_phrase(root, tmp_path):
    data = open_dataset("grefcoco", split="train", root=root)
    example = data[1]
    show("grefcoco", "--root", root, "--split", "train", "--out", tmp_path / "a.html", "--name", example.name)
    assert len(captions(tmp_path / "a.html")) == len(example.phrases)
    number = example.ids[0]
    show("grefcoco", "--root", root, "--split", "train", "--out", tmp_path / "b.html", "--name", number)
    assert any(f"phrase {number}" in line for _, line in captions(tmp_path / "b.html"))
    with pytest.raises(InvalidInput, match="nothing in grefcoco is called no-such-thing"):
        show("grefcoco", "--root", root, "--out", tmp_path / "c.html", "--name", "no-such-thing")


def test_a_seed_draws_the_same_samples_again(root, tmp_path):
    for name, seed in (("a", 3), ("b", 3)):
        show(
            "grefcoco",
            "--root",
            root,
            "--split",
            "train",
            "--out",
            tmp_path / f"{name}.html",
            "--count",
            "1",
            "--random",
            seed,
        )
    assert captions(tmp_path / "a.html") == captions(tmp_path / "b.html")
    pages = set()
    for seed in range(8):
        show(
            "grefcoco",
            "--root",
            root,
            "--split",
            "train",
            "--out",
            tmp_path / "s.html",
            "--count",
            "1",
            "--random",
            seed,
            "--force",
        )
        pages.add((tmp_path / "s.html").read_text())
    assert len(pages) > 1
    with pytest.raises(InvalidInput, match="give one of them"):
        show("grefcoco", "--root", root, "--out", tmp_path / "c.html", "--name", "x", "--random", "1")
