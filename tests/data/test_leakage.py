"""No training record shows a picture that results are measured on, and what fell is told."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refseg.cli import app, load_verbs
from refseg.data.catalog import open_dataset
from refseg.data.leakage import DatasetPart, evaluation_images, exclude, overlap, read_genome
from refseg.errors import InvalidInput, UnknownName
from refseg.training.data import open_training_data
from refseg.training.loop import train
from refseg.training.recipe import run_from_values

load_verbs()


def refer(root, name, split_by, references, *, pictures_in=None):
    """A data set in the form of REFER; references are (picture, split), each with two sentences."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    numbers = sorted({picture for picture, _ in references})
    images = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 40, "width": 60} for n in numbers
    ]
    annotations, refs = [], []
    for row, (picture, split) in enumerate(references):
        box = [5, 5, 30, 5, 30, 30, 5, 30]
        annotation = {"id": row + 1, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 625.0}
        annotations.append(annotation | {"bbox": [5, 5, 25, 25], "segmentation": [box]})
        sentences = [
            {"sent_id": 2 * row + i, "raw": text, "sent": text, "tokens": text.split()}
            for i, text in enumerate(("left box", "the bright box"))
        ]
        ref = {"ref_id": row, "ann_id": row + 1, "image_id": picture, "category_id": 1, "split": split}
        refs.append(ref | {"file_name": "x.jpg", "sent_ids": [2 * row, 2 * row + 1], "sentences": sentences})
    categories = [{"id": 1, "name": "thing"}]
    file = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(file))
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    place = root / (pictures_in or "train2014")
    place.mkdir(parents=True, exist_ok=True)
    for image in images:
        pixels = np.random.default_rng(image["id"]).integers(0, 99, (40, 60, 3), dtype=np.uint8)
        pixels[5:30, 5:30] = 220
        Image.fromarray(pixels).save(place / image["file_name"])
    return root


@pytest.fixture
def root(tmp_path):
    """RefCOCO and RefCOCOg over shared pictures: 4 and 5 are measured in RefCOCO and learnt from in RefCOCOg."""
    refer(
        tmp_path,
        "refcoco",
        "unc",
        [(1, "train"), (2, "train"), (3, "val"), (4, "testA"), (5, "testB"), (2, "val")],
    )
    refer(
        tmp_path,
        "refcocog",
        "umd",
        [(1, "train"), (4, "train"), (4, "train"), (5, "train"), (6, "train"), (1, "val")],
    )
    return tmp_path


HELD = ["refcoco:val+testA+testB", "refcocog:val"]


def test_records_that_show_a_measured_picture_fall_and_are_counted(root):
    held = evaluation_images(HELD, root)
    assert [sorted(one.numbers) for one in held] == [[2, 3, 4, 5], [1]]
    rest, fallen = exclude(open_dataset("refcocog", split="train", root=root), held, split="train")
    assert (fallen.records, fallen.fallen, fallen.pictures) == (5, 4, 3)
    assert fallen.by_part == {HELD[0]: 2, HELD[1]: 1}
    assert [example.name for example in rest] == ["COCO_train2014_000000000006.jpg"]
    assert str(fallen) == (
        "refcocog-umd train: 4 of 5 records left out, which show 3 pictures of refcoco:val+testA+testB (2), refcocog:val (1)"
    )


def test_a_set_is_cleaned_of_its_own_other_splits_too(root):
    rest, fallen = exclude(
        open_dataset("refcoco", split="train", root=root), evaluation_images(HELD[:1], root), split="train"
    )
    assert fallen.fallen == 1  # picture 2 is in train and in val
    assert [example.name for example in rest] == ["COCO_train2014_000000000001.jpg"]


def test_no_measured_picture_is_left_in_any_training_set(root):
    data = {
        "sets": [{"name": "refcoco", "root": str(root)}, {"name": "refcocog-umd", "root": str(root)}],
        "exclude_images_of": HELD[:1],
    }
    examples = open_training_data(run_of(data), 32)
    shown = {example.name for source in examples.sources for example in source.examples}
    assert shown == {f"COCO_train2014_{n:012d}.jpg" for n in (1, 6)}


def run_of(data):
    return run_from_values(
        {
            "family": "scout",
            "variant": "debug",
            "data": data,
            "optimizer": {"lr": 1e-3},
            "run": {"steps": 1, "batch_size": 1, "evaluate_examples": 0, "log_every": 1},
        },
        source="test",
    )


def test_a_run_prints_and_stores_what_fell(root, tmp_path, capsys):
    data = {"name": "refcocog", "root": str(root), "exclude_images_of": HELD[:1]}
    (tmp_path / "run").mkdir()
    train(run_of(data), tmp_path / "run", device=torch.device("cpu"))
    assert "refcocog-umd train: 3 of 5 records left out" in capsys.readouterr().err
    told = json.loads((tmp_path / "run/leakage.json").read_text())
    assert told["held_out"] == {HELD[0]: {"collection": "COCO", "pictures": 4}}
    assert told["training"][0]["fallen"] == 3


def test_a_run_that_learns_from_what_it_is_measured_on_says_so(root, tmp_path, capsys):
    data = {"name": "refcocog", "root": str(root), "evaluate_name": "refcoco", "evaluate_split": "testA"}
    run = run_of(data)
    run = run.model_copy(update={"run": run.run.model_copy(update={"evaluate_examples": 1})})
    (tmp_path / "run").mkdir()
    train(run, tmp_path / "run", device=torch.device("cpu"))
    assert "1 of the 1 pictures that the run is measured on are learnt from too" in capsys.readouterr().err


def test_a_run_with_nothing_left_is_refused(root):
    data = {"name": "refcoco", "root": str(root), "split": "val", "exclude_images_of": ["refcoco:val"]}
    with pytest.raises(InvalidInput, match=r"nothing is left to learn from: refcoco val: 2 of 2 records"):
        open_training_data(run_of(data), 32)


def test_pictures_of_another_collection_with_the_same_number_stay(root):
    refer(root, "refclef", "unc", [(4, "train"), (5, "train")], pictures_in="images/saiapr_tc-12")
    rest, fallen = exclude(
        open_dataset("refclef-unc", split="train", root=root),
        evaluation_images(HELD[:1], root),
        split="train",
    )
    assert (fallen.fallen, len(rest)) == (0, 2)


def phrase_file(folder, names):
    folder.mkdir()
    lines = []
    for name in names:
        Image.new("RGB", (60, 40)).save(folder / name)
        lines.append({"image": name, "phrase": "left box", "mask": [[5, 5, 30, 5, 30, 30]], "split": "train"})
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "mine.jsonl"


def test_pictures_of_a_phrase_file_are_known_by_the_names_of_coco(root):
    names = ["COCO_train2014_000000000004.jpg", "000000000005.jpg", "000000000007.jpg", "holiday.jpg"]
    rest, fallen = exclude(
        open_dataset(phrase_file(root / "mine", names)), evaluation_images(HELD[:1], root), split="train"
    )
    assert (fallen.records, fallen.fallen, fallen.unknown) == (4, 2, 1)
    assert [rest[index].name for index in range(len(rest))] == names[2:]
    assert "1 examples show no picture of COCO by name" in str(fallen)


def test_pictures_of_visual_genome_are_known_by_its_list(root):
    rows = [{"image_id": 71, "coco_id": 4}, {"image_id": 72, "coco_id": None}, {"image_id": 73, "coco_id": 8}]
    (root / "image_data.json").write_text(json.dumps(rows))
    file = phrase_file(root / "genome", ["71.jpg", "72.jpg", "73.jpg"])
    data = {"name": str(file), "coco_ids": str(root / "image_data.json")}
    data |= {"exclude_images_of": HELD[:1], "evaluate_root": str(root)}
    examples = open_training_data(run_of(data), 32)
    assert [examples.sources[0].examples[i].name for i in range(len(examples))] == ["72.jpg", "73.jpg"]
    assert examples.leakage.fallen[0].fallen == 1


def test_files_of_coco_and_visual_genome_are_told_what_to_leave_out(root):
    held = evaluation_images(HELD[:1], root)
    (root / "instances_train2017.json").write_text(json.dumps({"images": [{"id": 4}, {"id": 9}, {"id": 2}]}))
    (root / "image_data.json").write_text(
        json.dumps([{"image_id": 71, "coco_id": 4}, {"image_id": 72, "coco_id": None}])
    )
    assert overlap(root / "instances_train2017.json", held) == (3, [2, 4])
    assert overlap(root / "image_data.json", held) == (2, [71])
    arguments = ["--of", HELD[0], "--root", str(root), "--out", str(root / "out.json")]
    file = str(root / "instances_train2017.json")
    result = CliRunner().invoke(app, ["data", "overlap", file, *arguments])
    assert (
        "2 of 3 pictures of instances_train2017.json are among those of refcoco:val+testA+testB (4)"
        in result.stdout
    )
    assert json.loads((root / "out.json").read_text()) == [2, 4]


@pytest.mark.parametrize("text", ["refcoco", "refcoco:", ":val", "refcoco:val+", ""])
def test_what_names_no_part_is_refused(text):
    with pytest.raises(
        InvalidInput, match=f"{re.escape(repr(text))} names no part of a data set; write name:split"
    ):
        DatasetPart.of(text)


def test_an_unknown_split_or_set_is_named(root):
    with pytest.raises(UnknownName, match="trian"):
        evaluation_images(["refcoco:trian"], root)
    with pytest.raises(UnknownName, match="did you mean 'refcoco'"):
        evaluation_images(["refcocoo:val"], root)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"images": 3}', '{"images": [{"id": "x"}]}'])
def test_files_of_no_known_form_are_refused(root, content):
    (root / "other.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"is neither in the form of COCO|is no image_data.json"):
        overlap(root / "other.json", [])


def test_a_list_that_is_not_visual_genomes_is_refused(root):
    (root / "other.json").write_text('{"images": []}')
    with pytest.raises(InvalidInput, match=r"is no image_data.json of Visual Genome"):
        read_genome(root / "other.json")
