"""Pictures with references: order, splits, options, layouts, and data that is wrong."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from data import refer_maker as maker
from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions
from refseg.data.readers.phrase_file import MOST_PHRASES
from refseg.errors import InvalidInput, UnknownName


def opened(root, split="train", **options):
    return open_dataset("refcoco", split=split, root=root, options=ReadOptions(**options))


def test_phrases_of_a_picture_stand_together_where_it_first_appears(tmp_path):
    refs = [maker.records(6, splits=("train",))[n] for n in (4, 0, 5, 3, 1)]
    maker.write(tmp_path, refs, maker.instances(6))
    data = opened(tmp_path)
    assert [example.name for example in data] == ["2.png", "0.png", "1.png"]
    assert [example.objects for example in data] == [("4", "4", "5", "5"), ("0", "0", "1", "1"), ("3", "3")]
    assert data[1].ids == ("0", "1", "2", "3")
    assert data[1].phrases == ("thing 0 0", "thing 0 1", "thing 1 0", "thing 1 1")
    assert data[1].masks.shape == (4, 1, maker.HEIGHT, maker.WIDTH)
    assert torch.equal(data[1].masks[0], data[1].masks[1]) and not torch.equal(
        data[1].masks[1], data[1].masks[2]
    )
    assert data[1].labels.tolist() == [0, 0, 1, 1] and data.categories == ("cat", "dog")


def test_an_example_may_hold_one_object_or_one_phrase(tmp_path):
    maker.write(tmp_path, maker.records(splits=("train",)))
    assert [example.objects for example in opened(tmp_path, item="object")] == [
        (str(n),) * 2 for n in range(4)
    ]
    phrases = opened(tmp_path, item="phrase", text="raw")
    assert [example.phrases for example in phrases] == [
        (f"Thing {n}, {k}!",) for n in range(4) for k in range(2)
    ]
    assert opened(tmp_path, text="squeezed")[0].phrases[0] == "thing 0 0"


def test_a_picture_of_many_phrases_becomes_several_examples(tmp_path):
    record = maker.records(1, splits=("train",))[0]
    record["sentences"] = [
        {"sent_id": n, "raw": f"r{n}", "sent": f"s{n}", "tokens": [f"s{n}"]} for n in range(70)
    ]
    maker.write(tmp_path, [record])
    data = opened(tmp_path)
    assert [len(example.phrases) for example in data] == [MOST_PHRASES, 70 - MOST_PHRASES]
    assert data[1].ids[0] == "64"
    assert len(open_dataset("refcoco", split="train", root=tmp_path, count=1)) == 1


def test_annotations_and_masks_need_no_picture(tmp_path):
    maker.write(tmp_path, pictures=False)
    data = opened(tmp_path)
    assert data.annotation(0).size == (maker.HEIGHT, maker.WIDTH)
    assert data.masks(0).any()
    with pytest.raises(
        InvalidInput, match=r"refcoco reference 0: the picture 0\.png is in none of the folders .*train2014"
    ):
        data[0]


def test_pictures_are_found_in_every_published_place(tmp_path):
    maker.write(tmp_path)
    place = tmp_path / "images" / "train2014"
    for other in ("images/mscoco/images/train2014", "train2014", "elsewhere"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place, tmp_path / other)
        place = tmp_path / other
        options = {"images": place} if other == "elsewhere" else {}
        assert opened(tmp_path, **options)[0].frames.shape == (1, 3, maker.HEIGHT, maker.WIDTH)


def test_a_picture_of_another_size_is_told_with_its_record(tmp_path):
    from PIL import Image

    maker.write(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train2014" / "0.png")
    with pytest.raises(
        InvalidInput, match=r"reference 0: the picture 0\.png is 8x8 pixels, and was annotated at 20x14"
    ):
        opened(tmp_path)[0]


def test_splits_are_asked_for_by_the_published_names(tmp_path):
    maker.write(tmp_path, maker.records(6, splits=("train", "testA", "testAB")), maker.instances(6))
    ids = {
        split: [o for e in opened(tmp_path, split, item="object") for o in e.objects[:1]]
        for split in ("testA", "testB", "test")
    }
    assert ids == {"testA": ["1", "2", "4", "5"], "testB": ["2", "5"], "test": ["1", "2", "4", "5"]}
    with pytest.raises(
        InvalidInput,
        match="no record of refcoco is in the split 'testC'; its splits are train, testA, testAB",
    ):
        opened(tmp_path, "testC")
    with pytest.raises(UnknownName, match="no split named 'tets'"):
        opened(tmp_path, "tets")


def test_a_folder_stands_for_the_data_set_it_holds(tmp_path):
    folder = maker.write(tmp_path, split_by="google")
    assert open_dataset(folder, split="train").name == "refcoco-google"
    assert open_dataset(tmp_path, split="train").name == "refcoco-google"
    maker.write(tmp_path)
    with pytest.raises(InvalidInput, match="holds refcoco, refcoco-google; name the one to read"):
        open_dataset(folder)
    own = maker.write(tmp_path / "other", name="my-set", split_by="me")
    assert len(open_dataset(own, split="train")) == 2


def test_a_data_set_that_is_not_there_is_told_with_its_layout(tmp_path):
    with pytest.raises(
        InvalidInput, match=r"RefCOCO\+ \(unc\) was not found: looked for refcoco\+/instances.json"
    ):
        open_dataset("refcoco+", root=tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'refcocog-umd'"):
        open_dataset("refcocog-um")


@pytest.mark.parametrize(
    ("option", "told"), [({"text": "row"}, "raw"), ({"masks": "sum"}, "union"), ({"item": "clips"}, "clip")]
)
def test_a_wrong_option_is_told(option, told):
    with pytest.raises(UnknownName, match=told):
        ReadOptions.of(option)
    with pytest.raises(UnknownName, match="option of a data set"):
        ReadOptions.of({"tetx": "raw"})


def test_a_loader_of_several_workers_reads_the_same(tmp_path):
    maker.write(tmp_path, maker.records(8, splits=("train",)), maker.instances(8))
    data = opened(tmp_path)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    for alone, other in zip(data, loader, strict=True):
        assert alone.phrases == other.phrases and torch.equal(alone.masks, other.masks)
    assert len(pickle.dumps(data)) < 10_000


def test_pictures_of_other_sets_can_be_left_out(tmp_path):
    maker.write(tmp_path, maker.records(6, splits=("train",)), maker.instances(6))
    data = opened(tmp_path)
    assert data.image_ids() == {0, 1, 2}
    rest = data.without_images(frozenset({1, 77}))
    smaller, fallen = rest.dataset, rest.num_excluded
    assert fallen == 2 and smaller.image_ids() == {0, 2} and len(smaller) == 2


def test_a_description_names_the_files_by_hash(tmp_path):
    maker.write(tmp_path)
    told = opened(tmp_path, masks="exactly-one").describe()
    assert (
        told["name"] == "refcoco" and told["split"] == "train" and told["options"]["masks"] == "exactly-one"
    )
    assert set(told["sources"]) == {"instances.json", "refs(unc).p"}
    assert json.dumps(told)


def change(path, value):
    """Changes one field of a copy of the records; `path` leads to it."""

    def apply(records):
        records = copy.deepcopy(records)
        inner = records
        for step in path[:-1]:
            inner = inner[step]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return records

    return apply


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (
            (2, "ann_id"),
            KeyError,
            r'refs\(unc\)\.p record 2: the field "ann_id" is missing; it must be a whole number',
        ),
        ((2, "ann_id"), "x", r'record 2: the field "ann_id" is the text \'x\', and must be a whole number'),
        ((2, "ann_id"), 999, r'record 2: "ann_id" is 999, and instances\.json has no such annotation'),
        (
            (2, "ann_id"),
            100,
            "record 2: its object 100 lies in picture 0, and the record speaks of picture 1",
        ),
        ((3, "image_id"), 50, r'record 3: "image_id" is 50, and instances\.json has no such picture'),
        ((3, "image_id"), None, 'record 3: the field "image_id" is null'),
        ((0, "split"), 7, 'record 0: the field "split" is the number 7, and must be a text'),
        ((1, "sentences"), {}, 'record 1: the field "sentences" is an object, and must be a list'),
        ((1, "sentences", 1), "text", "record 1 sentence 1 is the text 'text', and must be an object"),
        ((1, "sentences", 1, "sent"), KeyError, 'record 1 sentence 1: the field "sent" is missing'),
        ((1, "sentences", 0, "sent_id"), 1.5, 'sentence 0: the field "sent_id" is the number 1.5'),
        ((1,), [], r"refs\(unc\)\.p record 1 is a list of 0, and must be an object"),
    ],
)
def test_a_wrong_record_is_told_with_file_record_and_field(tmp_path, where, value, told):
    maker.write(tmp_path, change(where, value)(maker.records()), maker.instances())
    with pytest.raises(InvalidInput, match=told):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("annotations", 1, "segmentation"), [[1, 2, "x"]], r'instances\.json annotations 1 \(id 101\): the field "segmentation" cannot be drawn'),
        (("annotations", 1, "segmentation"), KeyError, r'annotations 1 \(id 101\): the field "segmentation" cannot be drawn'),
        (("annotations", 1, "bbox"), [1, 2], 'the field "bbox" is a list of 2, and must be a list of 4 numbers'),
        (("annotations", 1, "id"), "101", 'annotations 1: the field "id" is the text'),
        (("images", 0, "height"), 0, r'images 0 \(id 0\): the field "height" is the number 0'),
        (("images", 0, "height"), 10**6, "no picture is so large"),
        (("images", 0, "file_name"), "../../etc/passwd", "leaves the folder of pictures"),
        (("images",), None, r'instances\.json: the field "images" is null, and must be a list'),
        (("categories", 0, "name"), KeyError, 'category 0: the field "name" is missing'),
    ],
)  # fmt: skip
def test_a_wrong_annotation_is_told_with_file_record_and_field(tmp_path, where, value, told):
    maker.write(tmp_path, maker.records(), change(where, value)(maker.instances()), pictures=False)
    with pytest.raises(InvalidInput, match=told):
        opened(tmp_path)


def test_a_file_that_is_cut_off_is_told(tmp_path):
    folder = maker.write(tmp_path)
    text = (folder / "instances.json").read_text()
    (folder / "instances.json").write_text(text[:-40])
    with pytest.raises(InvalidInput, match=r"instances\.json is no JSON, or is cut off"):
        opened(tmp_path)
    (folder / "instances.json").write_text(text)
    (folder / "refs(unc).p").write_bytes((folder / "refs(unc).p").read_bytes()[:-10])
    with pytest.raises(InvalidInput, match=r"refs\(unc\)\.p is no pickle of annotations, or is damaged"):
        opened(tmp_path)


def test_wrong_records_can_be_left_out_counted_and_told(tmp_path):
    records = change((2, "ann_id"), "x")(maker.records())
    maker.write(tmp_path, change((3, "image_id"), 50)(records), maker.instances())
    with pytest.warns(UserWarning, match="2 records of refcoco cannot be used .* record 2: the field"):
        data = opened(tmp_path, bad_records="skip")
    assert [example.objects for example in data] == [("0", "0")]
    assert data.table.facts["skipped"][0] == 2
    with pytest.raises(InvalidInput, match="record 2"):
        opened(tmp_path)  # what another opening skipped is not skipped here


def test_sentences_that_a_hostile_pickle_shares_without_end_are_refused(tmp_path):
    record = maker.records(1)[0]
    shared = [record["sentences"][0]] * 400
    maker.write(
        tmp_path, [record | {"sentences": shared, "ref_id": n} for n in range(400)], maker.instances(1)
    )
    with pytest.raises(InvalidInput, match="more sentences than bytes"):
        opened(tmp_path)
