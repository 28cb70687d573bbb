"""Video data sets: items, single frames, windows, label pictures, and files that are wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refseg.data import video_items
from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions
from refseg.data.formats.masks import read_label_png
from refseg.data.readers.jhmdb import JHMDB, samples_of
from refseg.data.readers.ref_davis import ANNOTATORS
from refseg.data.readers.video_set import parse_video
from refseg.errors import InvalidInput, UnknownName
from refseg.media.video import window_around

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"


@pytest.fixture
def videos(tmp_path):
    """Two videos of three and five frames, an object that is there and one that appears late."""
    folder = tmp_path / "ref-youtube-vos"
    told, meta = {}, {}
    for name, count in (("b", 3), ("a", 5)):
        frames = [f"{5 * n:05d}" for n in range(count)]
        for kind in ("JPEGImages", "Annotations"):
            (folder / "train" / kind / name).mkdir(parents=True)
        for n, frame in enumerate(frames):
            Image.new("RGB", (12, 8)).save(folder / "train" / "JPEGImages" / name / f"{frame}.jpg")
            labels = np.zeros((8, 12), dtype=np.uint8)
            labels[1:3, n : n + 2] = 1
            labels[5:7, 4:6] = 2 if n == count - 1 else 0
            Image.fromarray(labels).save(folder / "train" / "Annotations" / name / f"{frame}.png")
        said = {
            "0": {"exp": "The  Ape", "obj_id": "1"},
            "1": {"exp": "late", "obj_id": "2"},
            "2": {"exp": "ape", "obj_id": "1"},
        }
        told[name] = {"expressions": said, "frames": frames[::-1]}
        meta[name] = {"objects": {"1": {"category": "ape"}, "2": {"category": "unknown thing"}}}
    place = folder / "meta_expressions" / "train"
    place.mkdir(parents=True)
    (place / "meta_expressions.json").write_text(json.dumps({"videos": told}))
    (folder / "train" / "meta.json").write_text(json.dumps({"videos": meta}))
    return tmp_path


def opened(root, **options):
    return open_dataset("ref-youtube-vos", split="train", root=root, options=ReadOptions(**options))


def test_videos_and_expressions_keep_the_order_of_the_file_and_frames_are_sorted(videos):
    data = opened(videos)
    assert [example.name for example in data] == ["b", "a"]
    assert data[0].frame_names == ("00000", "00005", "00010")
    assert data[0].ids == ("0", "1", "2") and data[0].objects == ("1", "2", "1")
    assert data[0].masks.shape == (3, 3, 8, 12) and data[0].frames.shape == (3, 3, 8, 12)
    assert data[0].labels.tolist() == [1, -1, 1] and data.categories[1] == "ape"
    assert data[1].masks[1].flatten(1).any(1).tolist() == [False] * 4 + [True]
    assert data.size(0) == (8, 12) and data.vocabulary == ("ape", "late", "the")


def test_an_example_may_hold_an_object_or_an_expression(videos):
    assert [example.ids for example in opened(videos, item="object")][:2] == [("0", "2"), ("1",)]
    phrases = opened(videos, item="phrase", text="squeezed")
    assert len(phrases) == 6 and phrases[0].phrases == ("the ape",)


def test_some_frames_are_read_alone_and_may_repeat(videos):
    example = opened(videos, item="phrase").example(3, frames=[4, 0, 0])
    assert example.frame_names == ("00020", "00000", "00000")
    whole = opened(videos, item="phrase")[3]
    assert torch.equal(example.masks, whole.masks[:, [4, 0, 0]])


def test_masks_need_no_frames(videos):
    shutil.rmtree(videos / "ref-youtube-vos" / "train" / "JPEGImages")
    data = opened(videos)
    assert data.masks(0).any()
    with pytest.raises(InvalidInput, match=r"ref-youtube-vos video b: there is no file .*00000\.jpg"):
        data[0]


def test_items_of_training_are_those_that_are_published(videos):
    data = opened(videos)
    starts = video_items.clip_starts(data, 2)
    assert [(i.video, i.expression, i.frames[0]) for i in starts[:4]] == [
        (0, 0, 0),
        (0, 0, 2),
        (0, 1, 0),
        (0, 1, 2),
    ]
    windows = video_items.windows(data, 2)
    # The last window of three frames is moved back; windows without the object are left out.
    assert [i.frames for i in windows if (i.video, i.expression) == (0, 0)] == [(0, 1), (1, 2)]
    assert [i.frames for i in windows if (i.video, i.expression) == (0, 1)] == [(1, 2)]
    assert [i.frames for i in windows if (i.video, i.expression) == (1, 1)] == [(3, 4)]
    assert video_items.windows(data, 4)[0].frames == (0, 1, 2, 2), "a short video repeats its last frame"


@given(st.integers(1, 30), st.integers(1, 12), st.data())
def test_a_window_holds_its_frame_and_stays_within_the_video(length, size, data):
    place = data.draw(st.integers(0, length - 1))
    window = window_around(place, size, length)
    assert len(window.frames) == size and window.frames[window.target] == place
    assert window.target == window.frames.index(place)
    assert all(b - a in (0, 1) for a, b in zip(window.frames, window.frames[1:], strict=False))
    if size <= place < length - size:
        assert window.frames == tuple(range(place - size // 2, place - size // 2 + size))


def test_a_window_beyond_the_video_is_refused():
    with pytest.raises(InvalidInput, match="frame 6 is annotated, and the video has 5 frames"):
        window_around(5, 3, 5)


def test_label_pictures_are_numbers_and_not_colours(tmp_path):
    palette = Image.fromarray(np.array([[0, 2], [7, 255]], dtype=np.uint8))
    palette.putpalette([value for n in range(256) for value in (n, 255 - n, 0)])
    palette.save(tmp_path / "p.png")
    assert read_label_png(tmp_path / "p.png").tolist() == [[0, 2], [7, 255]]
    Image.new("RGB", (2, 2)).save(tmp_path / "c.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "p.png").read_bytes()[:40])
    Image.new("L", (2, 2)).save(tmp_path / "j.jpg")
    for name, told in (
        ("c.png", "holds colours"),
        ("x.png", "cut off|not a PNG"),
        ("j.jpg", "not a PNG"),
        ("n.png", "no mask"),
    ):
        with pytest.raises(InvalidInput, match=told):
            read_label_png(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "is a list of 0, and must be an object"),
        ({"expressions": {}}, 'the field "frames" is missing'),
        ({"expressions": {}, "frames": []}, 'the field "frames" is a list of 0'),
        ({"expressions": {}, "frames": ["../a"]}, 'the field "frames"'),
        (
            {"expressions": [], "frames": ["0"]},
            'the field "expressions" is a list of 0, and must be an object',
        ),
        ({"expressions": {"4": {}}, "frames": ["0"]}, 'expression 4: the field "exp" is missing'),
        (
            {"expressions": {"4": {"exp": "x", "obj_id": 1.5}}, "frames": ["0"]},
            'the field "obj_id" is the number 1.5',
        ),
    ],
)
def test_a_wrong_video_is_told_with_file_video_and_field(value, told):
    with pytest.raises(InvalidInput, match=told) as refusal:
        parse_video("v", value, "meta_expressions.json video v")
    assert str(refusal.value).startswith("meta_expressions.json video v")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".."])
def test_a_video_that_leaves_its_folder_is_refused(name):
    with pytest.raises(InvalidInput, match="no name of a folder"):
        parse_video(name, {"frames": ["0"], "expressions": {}}, "video")


def test_objects_without_a_number_are_told(videos):
    path = videos / "ref-youtube-vos" / "meta_expressions" / "train" / "meta_expressions.json"
    path.write_text(path.read_text().replace('"obj_id": "2"', '"obj_id": "255"'))
    with pytest.raises(
        InvalidInput, match=r'video b: expression 1: "obj_id" is 255, and must be one number from 1 to 254'
    ):
        opened(videos)[0]


def test_frames_and_masks_of_several_sizes_are_told(videos):
    train = videos / "ref-youtube-vos" / "train"
    Image.new("RGB", (5, 5)).save(train / "JPEGImages" / "b" / "00010.jpg")
    Image.new("L", (5, 5)).save(train / "Annotations" / "a" / "00005.png")
    with pytest.raises(InvalidInput, match=r"video b: frame 00010\.jpg has another size than 00000\.jpg"):
        opened(videos)[0]
    with pytest.raises(InvalidInput, match=r"video a: mask 00005\.png has another size than 00000\.png"):
        opened(videos)[1]


@pytest.mark.parametrize("name", ["ref-youtube-vos", "ref-davis17", "a2d", "jhmdb", "mevis"])
def test_an_unknown_split_is_told(tmp_path, name):
    from refseg.data.published import PUBLISHED

    folders = {"a2d": "a2d_sentences", "jhmdb": "jhmdb_sentences"}
    case = folders.get(name, name.replace("-", "_"))
    with pytest.raises(UnknownName, match=r"no split of .* named 'vali'"):
        open_dataset(name, split="vali", root=CASES / case)
    assert PUBLISHED[name].task == "video"


def test_annotators_of_davis_are_registers_and_255_is_no_object(tmp_path):
    shutil.copytree(CASES / "ref_davis17", tmp_path / "c")
    data = open_dataset("ref-davis17", split="val", root=tmp_path / "c")
    example = data[0]
    assert example.registers == ANNOTATORS
    assert torch.equal(example.masks[0], example.masks[3])
    scored = data.true_objects(1)
    assert scored.void.any() and not (scored.masks & scored.void).any()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (["v", "./j/R/a/v/00001.png", "./j/p.mat", 0, "x"], "sample 0: it is not"),
        (["v", "./j/R/a/v/00001.png", "./j/p.mat", 6], "sample 0: it is not"),
        (["v", "../../etc/00001.png", "./j/p.mat", 6, "x"], "no path of a numbered picture"),
        (["v", "./j/R/a/v/last.png", "./j/p.mat", 6, "x"], "no path of a numbered picture"),
        (["v", "./j/R/a/v/00001.png", "./j/../../p.mat", 6, "x"], "no path of a file of masks"),
        ("text", "sample 0: it is not"),
    ],
)
def test_a_wrong_sample_of_jhmdb_is_told(tmp_path, row, told):
    (tmp_path / "jhmdb_sentences_samples_metadata.json").write_text(json.dumps([row]))
    with pytest.raises(InvalidInput, match=told):
        samples_of(tmp_path)


def test_masks_of_jhmdb_lie_where_the_list_says(tmp_path):
    rows = [["v", "./jh/R/a/v/00002.png", "./jh/elsewhere/a/v.mat", 6, "x"]]
    (tmp_path / "jhmdb_sentences_samples_metadata.json").write_text(json.dumps(rows))
    data = JHMDB(tmp_path, split="test", options=ReadOptions())
    assert data.mask_path(data.samples[0]) == tmp_path / "elsewhere" / "a" / "v.mat"


def test_a_line_of_a_list_ends_at_its_line_break_alone(tmp_path):
    shutil.copytree(CASES / "ref_davis17", tmp_path / "c")
    path = tmp_path / "c" / "ref-davis" / "davis_text_annotations" / "Davis17_annot2.txt"
    stored = path.read_bytes().replace(b"\r\n", b"\n")
    first = stored.split(b"\n")[0]
    path.write_bytes(stored.replace(first, first[:-1] + b" on \xb4left\x85side" + first[-1:], 1))
    data = open_dataset("ref-davis17", split="train", root=tmp_path / "c")
    other = open_dataset("ref-davis17", split="valid", root=tmp_path / "c")
    phrases = [phrase for part in (data, other) for video in part for phrase in video.phrases]
    assert sum("on \xb4left side" in phrase for phrase in phrases) == 1


def test_samples_of_one_frame_stand_together_or_alone(tmp_path):
    shutil.copytree(CASES / "a2d_sentences", tmp_path / "c")
    together = open_dataset("a2d", split="test", root=tmp_path / "c")
    alone = open_dataset(
        "a2d", split="test", root=tmp_path / "c", options=ReadOptions(item="phrase", window=3)
    )
    assert (
        sum(len(together.samples_of(n)) for n in range(len(together))) == len(alone) == len(together.samples)
    )
    example = alone[0]
    assert example.frames.shape[0] == 3 and example.masks.shape[:2] == (1, 1)
    assert example.target_frames.tolist() == [1] and example.ids == ("v_K1zW9TI8m2s_f_9_i_0",)


def test_davis_after_the_published_conversion_is_read_the_same(tmp_path):
    shutil.copytree(CASES / "ref_davis17", tmp_path / "c")
    out = tmp_path / "converted" / "ref-davis"
    raw = open_dataset("ref-davis17", split="valid", root=tmp_path / "c")
    form = raw.published_form()
    (out / "meta_expressions" / "valid").mkdir(parents=True)
    (out / "valid").mkdir()
    (out / "meta_expressions" / "valid" / "meta_expressions.json").write_text(
        json.dumps(form["meta_expressions"])
    )
    (out / "valid" / "meta.json").write_text(json.dumps(form["meta"]))
    for video in raw.videos:
        frame = video.frames[0]
        shutil.copytree(raw.frame_path(video, frame).parent, out / "valid" / "JPEGImages" / video.name)
        shutil.copytree(raw.mask_path(video.name, frame).parent, out / "valid" / "Annotations" / video.name)
    converted = open_dataset("ref-davis17", split="valid", root=tmp_path / "converted")
    for one, other in zip(raw, converted, strict=True):
        assert (one.name, one.phrases, one.ids, one.registers) == (
            other.name,
            other.phrases,
            other.ids,
            other.registers,
        )
        assert torch.equal(one.masks, other.masks) and torch.equal(one.labels, other.labels)
