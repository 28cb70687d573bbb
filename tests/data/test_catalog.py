"""Data sets by name or path."""

import hashlib
import json

import pytest
from PIL import Image

from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions
from refseg.errors import InvalidInput, UnknownName


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "a.png")
    return tmp_path


def phrase_file(folder, name, *phrases):
    lines = [json.dumps({"image": "a.png", "phrase": phrase, "no_target": True}) for phrase in phrases]
    (folder / name).write_text("\n".join(lines))
    return folder / name


def test_scenes_are_drawn_from_held_out_seeds_by_default():
    data = open_dataset("scenes", count=2, scenes={"size": 32, "sprites": "none", "phrases": 1})
    assert len(data) == 2
    assert data[0].name.startswith("val-")
    assert data[0].frames.shape == (1, 3, 32, 32)
    assert "left" in data.vocabulary


def test_a_file_is_read_as_it_stands(folder):
    data = open_dataset(phrase_file(folder, "dogs.jsonl", "x", "y"))
    assert data[0].phrases == ("x", "y")
    assert data.name == "dogs.jsonl"


def test_a_folder_stands_for_the_file_of_the_split_or_its_only_file(folder):
    phrase_file(folder, "val.jsonl", "in val")
    assert open_dataset(folder)[0].phrases == ("in val",)
    phrase_file(folder, "train.jsonl", "in train")
    assert open_dataset(folder, split="train")[0].phrases == ("in train",)
    with pytest.raises(InvalidInput, match=r"train\.jsonl, val\.jsonl; name the one"):
        open_dataset(folder)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="no data set named 'scene'; did you mean 'scenes'"):
        open_dataset("scene")
    with pytest.raises(UnknownName, match="did you mean 'refcoco'"):
        open_dataset("refcocoo", options=ReadOptions())


def test_a_folder_of_nothing_known_leads_to_the_layouts(tmp_path):
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(InvalidInput, match=r"no \.jsonl file, and no published data set.*--root"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["gone.jsonl", "no/such/place"])
def test_a_missing_path_is_called_a_file(name):
    with pytest.raises(InvalidInput, match=f"there is no phrase file {name}"):
        open_dataset(name)


def test_options_of_another_data_set_are_refused(folder):
    path = phrase_file(folder, "dogs.jsonl", "x")
    with pytest.raises(InvalidInput, match=r"frames belong to scenes; .*dogs\.jsonl"):
        open_dataset(path, scenes={"frames": 2})
    with pytest.raises(InvalidInput, match="root belongs to a phrase file"):
        open_dataset("scenes", root=folder)
    with pytest.raises(InvalidInput, match="0 examples were asked for"):
        open_dataset("scenes", count=0)


def test_a_file_of_another_kind_or_an_empty_folder_is_refused(folder, tmp_path_factory):
    with pytest.raises(InvalidInput, match=r"a\.png is no \.jsonl"):
        open_dataset(folder / "a.png")
    with pytest.raises(InvalidInput, match=r"holds no \.jsonl"):
        open_dataset(tmp_path_factory.mktemp("empty"))


def test_a_description_tells_what_is_needed_to_read_the_same_again(folder):
    path = phrase_file(folder, "dogs.jsonl", "x")
    assert open_dataset(path).describe() == {
        "name": "dogs.jsonl",
        "split": None,
        "count": 1,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    told = open_dataset("scenes", split="new", scenes={"size": 32, "sprites": "none", "seed": 3}).describe()
    assert (told["split"], told["size"], told["seed"], told["count"]) == ("new", 32, 3, 1000)
    assert told["sprites_hash"]
    json.dumps(told)
