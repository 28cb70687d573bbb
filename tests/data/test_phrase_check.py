"""The full check tells everything that is wrong, not the first thing only."""

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.doctor.phrase_file import check_phrase_file
from refseg.errors import InvalidInput

HALF = [[0, 0, 4, 0, 4, 6, 0, 6]]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def checked(folder, *records, **options):
    path = folder / "all.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return check_phrase_file(path, **options)


def told(report):
    return [(finding.line, finding.is_error) for finding in report.findings]


def test_a_sound_file_is_counted_and_nothing_is_found(folder):
    report = checked(
        folder,
        {
            "image": "a.png",
            "phrase": "left",
            "mask": HALF,
            "split": "train",
            "register": "loc",
            "category": "side",
        },
        {"image": "a.png", "phrase": "a cat", "no_target": True, "split": "train"},
        {"frames": ["b.png", "b.png"], "phrase": "left", "mask": [HALF, None], "split": "val"},
    )
    assert report.findings == []
    assert (report.pictures, report.clips, report.frames, report.phrases, report.no_target) == (1, 1, 3, 3, 1)
    assert report.splits == {"train": 2, "val": 1}
    assert report.registers == {"loc": 1, "": 2}
    assert report.categories == {"side": 1, "": 2}
    assert report.mask_shares == [0.5, 0.25]


def test_every_error_is_told_with_its_line(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    report = checked(
        folder,
        {"image": "broken.png", "phrase": "x", "no_target": True},
        {"image": "a.png", "phrase": "x", "mask": {"size": [8, 6], "counts": [48]}},
        "{",
        {"image": "gone.png", "phrase": "x", "mask": HALF},
        {"image": "a.png", "phrase": "left", "mask": HALF},
        {"image": "a.png", "phrase": "y", "mask": {"size": [6, 8], "counts": [48]}},
    )
    assert told(report) == [(1, True), (2, True), (3, True), (4, True), (6, True)]
    assert report.errors == report.findings
    assert "8x6" in report.findings[1].message


def test_surprises_are_noted_and_are_no_errors(folder):
    whole = {"size": [6, 8], "counts": [0, 48]}
    report = checked(
        folder,
        {"image": "a.png", "phrase": "left", "mask": HALF, "id": "1", "split": "train"},
        {"image": "a.png", "phrase": "Left ", "mask": HALF, "id": "2", "split": "train"},
        {"image": "b.png", "phrase": "x", "no_target": True, "id": "1", "split": "train"},
        {"image": "a.png", "phrase": "y", "mask": HALF, "split": "val"},
        {"image": "b.png", "phrase": "all", "mask": whole, "split": "train"},
    )
    assert told(report) == [(2, False), (3, False), (4, False), (5, False)]
    assert report.errors == []


def test_progress_is_told_for_every_clip(folder):
    calls = []
    lines = [{"image": name, "phrase": "x", "no_target": True} for name in ("a.png", "b.png", "a.png")]
    checked(folder, *lines, on_clips=lambda total: lambda done: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_an_empty_file_is_refused(folder):
    with pytest.raises(InvalidInput, match="holds no phrase"):
        checked(folder)


def test_a_mask_turned_by_exif_is_compared_with_the_upright_picture(folder):
    picture = Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned a quarter: upright it is 8 high and 6 wide
    picture.save(folder / "turned.jpg", exif=exif)
    upright = {"image": "turned.jpg", "phrase": "x", "mask": {"size": [8, 6], "counts": [10, 38]}}
    assert checked(folder, upright).findings == []
