"""The page shows the worst first and says nothing that the page's reader could be fooled by."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.miniatures import LeftModel, opened, predictor
from evaluation.test_run import Columns, example
from refseg.evaluation.report import write_report
from refseg.evaluation.run import evaluate
from refseg.metrics import protocols


def written(dataset, path, **options):
    asked = predictor(LeftModel)
    result = evaluate(asked, dataset, **options)
    write_report(path, result, asked, dataset, title="a < b")
    return path.read_text()


def halves():
    """Four phrases whose targets are 1 to 4 of 8 columns; the model answers with the left 4."""
    rows = []
    for columns, phrase in enumerate(
        ["far <b>off</b>", "one two three", "nearly there", "just right"], start=1
    ):
        made = example(str(columns), phrase, size=(6, 8), registers=("even" if columns % 2 == 0 else "odd",))
        made.masks[..., :columns] = True
        rows.append(made)
    return Columns(rows)


def test_the_worst_answer_comes_first_and_text_is_escaped(tmp_path):
    page = written(halves(), tmp_path / "page.html")
    captions = re.findall(r"<b>(.*?)</b><br>IoU ([\d.]+)", page)
    assert [float(iou) for _, iou in captions] == [0.25, 0.5, 0.75, 1.0]
    assert captions[0][0] == "far &lt;b&gt;off&lt;/b&gt;"
    assert "<h1>a &lt; b</h1>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_numbers_by_register_are_those_of_its_phrases(tmp_path):
    page = written(halves(), tmp_path / "page.html")
    assert "<td>odd</td><td>2</td><td>50.0</td><td>50.0</td>" in page
    assert "<td>even</td><td>2</td><td>75.0</td><td>100.0</td>" in page


def test_places_are_those_of_the_targets(tmp_path):
    page = written(halves(), tmp_path / "page.html")
    assert "<td>middle left</td><td>4</td>" not in page  # all in one place: no table
    data = halves()
    data.examples[0].masks[:] = False
    data.examples[0].masks[..., 0, 7] = True
    assert "<td>top right</td><td>1</td><td>0.0</td>" in written(data, tmp_path / "other.html")


def test_answer_and_target_are_drawn_where_they_are(tmp_path):
    data = halves()
    data.examples = [replace(data.examples[0], frames=data.examples[0].frames)]
    page = written(data, tmp_path / "page.html")
    encoded = re.search(r"base64,([^\"]+)", page).group(1)
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    assert picture.shape == (6, 8, 3)
    assert picture[3, 7].max() < 60  # neither answer nor target
    assert picture[3, 3, 0] > 150  # the contour of the answer


@pytest.mark.parametrize(
    ("name", "window"), [("mevis", 2), ("mevis", None), ("a2d", None), ("refcocog-umd", None)]
)
def test_clips_and_labelled_frames_are_drawn_too(name, window, tmp_path):
    options = {"protocols": (protocols.HONEST,), "window": window}
    page = written(opened(name, tmp_path), tmp_path / "page.html", **options)
    assert page.count("<figure>") > 3
    if name == "mevis":
        assert re.search(r"frame \d of 5", page)
