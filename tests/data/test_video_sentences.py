"""Ref-YouTube-VOS in one file a split, one record an expression."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.data.catalog import open_dataset
from refseg.data.dataset import Timeline
from refseg.data.frame_sampling import DrawnFrames, SampledClips
from refseg.data.readers.vlformer_video import VideoSentences
from refseg.errors import InvalidInput, UnknownName

SQUARE = [[4, 2, 12, 2, 12, 8, 4, 8]]
RUNS = {"size": [10, 16], "counts": [52, 3, 105]}  # rows 2 to 4 of column 5


def form():
    video = {
        "id": 7,
        "name": "v",
        "file_names": [f"v/{n}.jpg" for n in (0, 5, 10)],
        "height": 10,
        "width": 16,
    }
    return {
        "videos": [video | {"length": 3}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {
                "id": 3,
                "video_id": 7,
                "category_id": 9,
                "iscrowd": 0,
                "bboxes": [[4, 2, 8, 6], None, [5, 2, 1, 3]],
                "segmentations": [SQUARE, None, RUNS],
            }
        ],
        "expressions": [
            {"id": 0, "vid_id": 7, "exp_id": "0", "anno_id": 3, "expression": "the dog"},
            {"id": 1, "vid_id": 7, "exp_id": 1, "anno_id": 3, "expression": "left one"},
        ],
    }


def written(tmp_path, content, split="train"):
    frames = tmp_path / split / "JPEGImages" / "v"
    frames.mkdir(parents=True)
    for number in (0, 5, 10):
        Image.fromarray(np.full((10, 16, 3), number * 10, np.uint8)).save(frames / f"{number}.jpg")
    (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_training_keeps_frames_with_the_object_and_draws_its_masks(tmp_path):
    data = open_dataset(written(tmp_path, form()), split="train")
    assert isinstance(data, VideoSentences)
    assert len(data) == 2
    assert data.timeline(0) == Timeline(2)
    assert data.size(0) == (10, 16)
    assert data.vocabulary == ("dog", "left", "one", "the")
    example = data[1]
    assert example.phrases == ("left one",)
    assert example.frame_names == ("0", "10")
    assert example.labels.tolist() == [1]  # 9 is the second number
    areas = example.masks[0].flatten(1).sum(1).tolist()
    assert areas == [8 * 6, 3]
    assert example.masks[0, 1, 2:5, 5].all()


def test_other_splits_keep_every_frame_and_have_no_masks(tmp_path):
    data = open_dataset(written(tmp_path, form(), split="valid"))
    assert data[0].masks is None
    assert len(data[0].frames) == 3


def test_a_clip_is_drawn_with_replacement_in_order_of_time(tmp_path):
    data = SampledClips(open_dataset(written(tmp_path, form()), split="train"), DrawnFrames(frames=5))
    example = data.draw(0, torch.Generator().manual_seed(0))
    assert len(data) == 2
    assert example.masks.shape == (1, 5, 10, 16)
    shades = example.frames[:, 0, 0, 0].tolist()
    assert shades == sorted(shades)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["expressions"][0].pop("anno_id"), '"anno_id" is missing'),
        (lambda f: f["expressions"][0].update(vid_id=8), "the id of a record that the file has"),
        (lambda f: f["annotations"][0]["bboxes"].pop(), "3 entries, as many as the video has frames"),
        (lambda f: f["annotations"][0].update(segmentations=[[["x"]], None, None]), "cannot be used"),
        (lambda f: f["videos"][0].update(file_names=["../x.jpg"] * 3), "below the folder of frames"),
        (lambda f: f.pop("videos"), '"videos" is missing'),
        (lambda f: f.update(expressions=[]), "no expression with frames"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_record(tmp_path, change, message):
    content = form()
    change(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=message):
        VideoSentences(tmp_path / "train.json")


def test_a_missing_frame_is_told_with_its_expression(tmp_path):
    data = open_dataset(written(tmp_path, form()), split="train")
    (tmp_path / "train" / "JPEGImages" / "v" / "10.jpg").unlink()
    with pytest.raises(InvalidInput, match="expression 0"):
        data[0]


def test_a_split_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownName, match="train"):
        open_dataset(written(tmp_path, form()), split="test")


def test_expressions_without_a_frame_are_left_out_and_told(tmp_path):
    content = form()
    absent = {"id": 4, "video_id": 7, "category_id": 4, "iscrowd": 0}
    content["annotations"].append(absent | {"bboxes": [None] * 3, "segmentations": [None] * 3})
    content["expressions"].append({"id": 2, "vid_id": 7, "exp_id": 2, "anno_id": 4, "expression": "no cat"})
    with pytest.warns(UserWarning, match=r"1 of 3 expressions of train\.json are left out"):
        data = open_dataset(written(tmp_path, content), split="train")
    assert len(data) == 2 and data.num_left_out == 1
