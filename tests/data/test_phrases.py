"""Phrase files as data sets: grouping, splits, lazy masks, and what is said when something is wrong."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.data.formats.masks import rle_of_mask
from refseg.data.readers import phrase_file as phrase_files
from refseg.data.readers.phrase_file import PhraseFile
from refseg.errors import InvalidInput, UnknownName

SIZE = (6, 9)
LEFT = torch.zeros(SIZE, dtype=torch.bool)
LEFT[:, :4] = True
LEFT_POLYGON = [[0, 0, 4, 0, 4, 6, 0, 6]]


def picture(folder, name, *, size=SIZE, grey=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), grey, dtype=np.uint8)).save(path)


def phrase_file(folder, *records, name="all.jsonl"):
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path, "a.png", grey=10)
    picture(tmp_path, "b.png", grey=20)
    Image.fromarray(LEFT.numpy().astype(np.uint8) * 255).save(tmp_path / "left.png")
    return tmp_path


@pytest.mark.parametrize("mask", [rle_of_mask(LEFT), LEFT_POLYGON, "left.png"], ids=["rle", "polygon", "png"])
def test_every_form_of_mask_is_the_same_mask(folder, mask):
    data = PhraseFile(phrase_file(folder, {"image": "a.png", "phrase": "left side", "mask": mask}))
    assert data[0].masks.equal(LEFT[None, None])
    assert data[0].frames.shape == (1, 3, *SIZE)


def test_lines_of_one_picture_are_one_example_wherever_they_stand(folder):
    data = PhraseFile(
        phrase_file(
            folder,
            {"image": "b.png", "phrase": "One thing", "mask": "left.png", "register": "loc"},
            "",
            {"image": "a.png", "phrase": "two", "mask": "left.png"},
            {"image": "b.png", "phrase": "no-thing", "no_target": True},
        )
    )
    assert [e.name for e in data] == ["b.png", "a.png"]
    first, second = data
    assert first.phrases == ("One thing", "no-thing")
    assert first.masks.flatten(1).any(1).tolist() == [True, False]
    assert first.registers == ("loc", "")
    assert second.registers is None
    assert int(first.frames[0, 0, 0, 0]) == 20
    assert data.vocabulary == ("no", "one", "thing", "two")


def test_a_clip_is_read_frame_by_frame(folder):
    line = {"frames": ["b.png", "a.png", "b.png"], "phrase": "x", "mask": [None, "left.png", None]}
    (example,) = PhraseFile(phrase_file(folder, line))
    assert example.frames[:, 0, 0, 0].tolist() == [20, 10, 20]
    assert example.masks.flatten(2).any(2).tolist() == [[False, True, False]]


def test_a_picture_with_very_many_phrases_becomes_several_examples(folder, monkeypatch):
    monkeypatch.setattr(phrase_files, "MOST_PHRASES", 2)
    lines = [{"image": "a.png", "phrase": f"p{n}", "no_target": True} for n in range(5)]
    data = PhraseFile(phrase_file(folder, *lines))
    assert [e.phrases for e in data] == [("p0", "p1"), ("p2", "p3"), ("p4",)]


def test_categories_number_their_names_alike_in_every_split(folder):
    path = phrase_file(
        folder,
        {"image": "a.png", "phrase": "x", "no_target": True, "category": "dog", "split": "train"},
        {"image": "b.png", "phrase": "x", "no_target": True, "category": "cat", "split": "val"},
        {"image": "b.png", "phrase": "y", "no_target": True, "split": "val"},
    )
    assert PhraseFile(path, split="train")[0].labels.tolist() == [1]
    assert PhraseFile(path, split="val")[0].labels.tolist() == [0, -1]


def test_a_split_is_what_its_lines_say(folder):
    path = phrase_file(
        folder,
        {"image": "a.png", "phrase": "red", "no_target": True, "split": "train"},
        {"image": "a.png", "phrase": "blue", "no_target": True, "split": "val"},
        {"image": "b.png", "phrase": "green", "no_target": True},
    )
    val = PhraseFile(path, split="val")
    assert [e.phrases for e in val] == [("blue",)]
    assert val.vocabulary == ("blue",)
    assert [e.phrases for e in PhraseFile(path)] == [("red", "blue"), ("green",)]
    with pytest.raises(UnknownName, match=r"split in all\.jsonl named 'vall'.*'val'"):
        PhraseFile(path, split="vall")


@pytest.mark.parametrize(
    ("name", "is_known"), [("val", True), ("dogs-val", True), ("interval", False), ("dogs", False)]
)
def test_a_file_without_splits_is_the_split_that_its_name_says(folder, name, is_known):
    path = phrase_file(folder, {"image": "a.png", "phrase": "x", "no_target": True}, name=f"{name}.jsonl")
    if is_known:
        assert len(PhraseFile(path, split="val")) == 1
    else:
        with pytest.raises(InvalidInput, match="names a split"):
            PhraseFile(path, split="val")


def test_a_count_leaves_the_rest_out(folder):
    path = phrase_file(folder, *({"image": n, "phrase": "x", "no_target": True} for n in ("a.png", "b.png")))
    assert len(PhraseFile(path, count=1)) == 1
    assert len(PhraseFile(path, count=5)) == 2


def test_paths_may_start_from_another_root(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = phrase_file(elsewhere, {"image": "a.png", "phrase": "x", "mask": "left.png"})
    assert PhraseFile(path, root=folder)[0].masks.any()
    with pytest.raises(InvalidInput, match=r"line 1: there is no picture a\.png"):
        PhraseFile(path)


def test_opening_opens_no_picture(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    line = {"image": "broken.png", "phrase": "x", "no_target": True}
    data = PhraseFile(phrase_file(folder, line))
    with pytest.raises(InvalidInput, match=r"all\.jsonl line 1: .*broken\.png"):
        data[0]


def test_a_wrong_line_is_told_with_its_number(folder):
    good = {"image": "a.png", "phrase": "x", "no_target": True}
    path = phrase_file(folder, good, "", {"image": "a.png", "phrase": "x"})
    with pytest.raises(InvalidInput, match=r'all\.jsonl line 3: the line has no "mask"'):
        PhraseFile(path)


def test_a_missing_mask_picture_is_told_when_opening(folder):
    path = phrase_file(folder, {"image": "a.png", "phrase": "x", "mask": "gone.png"})
    with pytest.raises(InvalidInput, match=r"line 1: there is no mask gone\.png"):
        PhraseFile(path)


def test_a_mask_of_another_size_is_told_with_the_line_that_has_it(folder):
    path = phrase_file(
        folder,
        {"image": "a.png", "phrase": "x", "mask": "left.png"},
        {"image": "a.png", "phrase": "y", "mask": rle_of_mask(LEFT.T)},
    )
    with pytest.raises(InvalidInput, match=r"line 2: the run-length code is 9x6 .* picture is 6x9"):
        PhraseFile(path)[0]


def test_frames_of_different_sizes_are_refused(folder):
    picture(folder, "big.png", size=(7, 9))
    path = phrase_file(folder, {"frames": ["a.png", "big.png"], "phrase": "x", "no_target": True})
    with pytest.raises(InvalidInput, match=r"line 1: big\.png is 9x7 pixels, and a\.png"):
        PhraseFile(path)[0]


def test_a_file_without_phrases_or_no_file_is_refused(folder):
    with pytest.raises(InvalidInput, match="holds no phrase"):
        PhraseFile(phrase_file(folder, ""))
    with pytest.raises(InvalidInput, match="No such file"):
        PhraseFile(folder / "none.jsonl")
    with pytest.raises(InvalidInput, match="Is a directory"):
        PhraseFile(folder)


def test_a_file_that_changed_after_opening_is_refused(folder):
    path = phrase_file(folder, {"image": "a.png", "phrase": "x", "no_target": True})
    data = PhraseFile(path)
    phrase_file(folder, {"image": "b.png", "phrase": "another", "no_target": True})
    with pytest.raises(InvalidInput, match="has changed"):
        data[0]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder):
    line = json.dumps({"image": "a.png", "phrase": "x", "no_target": True})
    (folder / "all.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (line + "\r\n" + line.replace("a.", "b.") + "\r\n").encode()
    )
    assert len(PhraseFile(folder / "all.jsonl")) == 2


def test_a_data_set_can_be_sent_to_another_process(folder):
    data = PhraseFile(phrase_file(folder, {"image": "a.png", "phrase": "x", "mask": "left.png"}))
    assert pickle.loads(pickle.dumps(data))[0].masks.equal(data[0].masks)


def test_an_index_outside_ends_iteration(folder):
    data = PhraseFile(phrase_file(folder, {"image": "a.png", "phrase": "x", "mask": "left.png"}))
    with pytest.raises(IndexError):
        data[1]
    assert len(list(data)) == 1


def test_chosen_frames_of_a_clip_are_read_with_their_masks_and_no_others(tmp_path):
    names = []
    for number in range(4):
        Image.new("RGB", (12, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        names.append(f"{number}.png")
    box = [[1, 1, 6, 1, 6, 6]]
    line = {"frames": names, "phrase": "a box", "mask": [box, None, box, None]}
    (tmp_path / "clips.jsonl").write_text(json.dumps(line))
    clips = PhraseFile(tmp_path / "clips.jsonl")
    assert clips.timeline(0).length == 4
    (tmp_path / "0.png").write_bytes(b"not read")
    example = clips.example(0, [3, 2, 2])
    assert example.frames[:, 0, 0, 0].tolist() == [3, 2, 2]
    assert example.masks[0].flatten(1).any(1).tolist() == [False, True, True]
    assert [outline is None for outline in example.outlines[0]] == [True, False, False]
    assert not clips.example(0, [1, 3]).masks.any()  # the object is not in these
    with pytest.raises(InvalidInput, match=r"0\.png"):
        clips[0]
