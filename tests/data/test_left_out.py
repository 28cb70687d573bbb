"""Records that cannot be used, left out where the reader is told to: counted, told, and the rest is read."""

import json
import shutil
from pathlib import Path

import pytest

from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions
from refseg.data.doctor.examine import examine, examine_folder, places_in
from refseg.errors import InvalidInput

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"
SKIP = ReadOptions(bad_records="skip")


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        shutil.copytree(CASES / name, tmp_path / name)
        return tmp_path / name

    return copy


def edit(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def a_video_and_an_expression(told):
    first, second = list(told["videos"].values())[:2]
    first["frames"] = "all"
    second["expressions"]["0"]["exp"] = 3


EXPRESSIONS = (
    ("ref_youtube_vos", "ref-youtube-vos", "train", "ref-youtube-vos/meta_expressions/train"),
    ("mevis", "mevis", "train", "mevis/train"),
)


@pytest.mark.parametrize(("case", "name", "split", "folder"), EXPRESSIONS)
def test_videos_and_expressions_can_be_left_out(copied, case, name, split, folder):
    root = copied(case)
    whole = open_dataset(name, split=split, root=root)
    edit(root / folder / "meta_expressions.json", a_video_and_an_expression)
    with pytest.raises(InvalidInput, match=r"meta_expressions\.json video .* the field \"frames\""):
        open_dataset(name, split=split, root=root)
    with pytest.warns(UserWarning, match=f"2 records of {name} cannot be used and were left out"):
        data = open_dataset(name, split=split, root=root, options=SKIP)
    assert [video.name for video in data.videos] == [video.name for video in whole.videos[1:]]
    assert len(data.videos[0].expressions) == len(whole.videos[1].expressions) - 1
    assert data.num_left_out == data.describe()["left_out"] == 2
    report = examine(places_in(name, root)[0], is_quick=True)
    assert report.found["record"].count == 2


LISTS = (
    ("a2d_sentences", "a2d", "a2d_sentences/a2d_sentences_single_frame_test_annotations.json"),
    ("jhmdb_sentences", "jhmdb", "jhmdb_sentences/jhmdb_sentences_samples_metadata.json"),
)


@pytest.mark.parametrize(("case", "name", "path"), LISTS)
def test_rows_of_a_list_can_be_left_out(copied, case, name, path):
    root = copied(case)
    whole = open_dataset(name, split="test", root=root).samples
    edit(root / path, lambda rows: rows[1].__setitem__(0, 5))
    with pytest.raises(InvalidInput, match="sample 1: it is not"):
        open_dataset(name, split="test", root=root)
    with pytest.warns(UserWarning, match=f"1 record of {name} cannot be used and was left out.*sample 1"):
        data = open_dataset(name, split="test", root=root, options=SKIP)
    assert data.samples == (whole[0], *whole[2:]) and data.num_left_out == 1
    assert examine(places_in(name, root)[0], is_quick=True).found["record"].count == 1


def test_raw_rows_of_a2d_can_be_left_out(copied):
    root = copied("a2d_sentences")
    (root / "a2d_sentences" / "a2d_sentences_single_frame_test_annotations.json").unlink()
    whole = open_dataset("a2d", split="test", root=root).samples
    damaged = next((root / "a2d_sentences" / "text_annotations").glob("*/*/*.h5"))
    shown = [s for s in whole if damaged.match(f"{s.video}/{s.frame:05d}.h5")]
    damaged = damaged if shown else next(damaged.parents[1].glob(f"{whole[0].video}/{whole[0].frame:05d}.h5"))
    damaged.write_bytes(b"no file of HDF5")
    with pytest.warns(UserWarning, match=r"1 record of a2d .*is damaged, or no annotation of A2D"):
        data = open_dataset("a2d", split="test", root=root, options=SKIP)
    left = [s for s in whole if not damaged.match(f"{s.video}/{s.frame:05d}.h5")]
    assert list(data.samples) == left and len(left) < len(whole)


def test_sentences_of_the_coco_form_can_be_left_out(copied):
    folder = next(path for path in (copied("refcoco_coco_form") / "coco").iterdir() if "refcoco" in path.name)
    whole = open_dataset(folder, split="val")

    def change(told):
        told["images"][1]["caption"] = None
        told["annotations"][2]["image_id"] = [1]

    edit(next(folder.glob("*_val.json")), change)
    with pytest.raises(InvalidInput, match=r"annotations 2: the field \"image_id\""):
        open_dataset(folder, split="val")
    with pytest.warns(UserWarning, match="2 records of"):
        data = open_dataset(folder, split="val", options=SKIP)
    assert len(data.rows) == len(whole.rows) - 1 and data.num_left_out == 2
    assert examine_folder(folder, is_quick=True).found["record"].count == 2


@pytest.mark.parametrize("form", ["objects_form", "lmms_form"])
def test_rows_of_parquet_files_can_be_left_out(copied, form):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    folder = copied("refcoco_parquet") / form
    path = next(path for path in sorted(folder.rglob("*.parquet")) if "val" in path.name)
    table = parquet.read_table(path)
    rows = table.to_pylist()
    count = len(open_dataset(folder, split="val").rows)
    rows[0] |= {"raw_anns": "{"} if form == "objects_form" else {"answer": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(InvalidInput, match=f"{path.name} row 0"):
        open_dataset(folder, split="val")
    with pytest.warns(UserWarning, match="1 record of"):
        data = open_dataset(folder, split="val", options=SKIP)
    assert len(data.rows) == count - 1
    for index in range(len(data)):
        if form == "lmms_form":
            assert data[index].frames.shape[-2:] == data.size(index)
    assert examine_folder(folder, is_quick=True).found["record"].count == 1


def test_raw_davis_cannot_leave_lines_out(copied):
    with pytest.raises(InvalidInput, match='bad_records = "skip" is not supported for the four lists'):
        open_dataset("ref-davis17", split="valid", root=copied("ref_davis17"), options=SKIP)


def test_an_empty_list_of_objects_is_no_statement_that_nothing_answers(copied):
    root = copied("grefcoco")
    path = root / "grefcoco" / "grefs(unc).json"
    edit(path, lambda records: records[0].update(ann_id=[]))
    record = json.loads(path.read_text())[0]
    data = open_dataset("grefcoco", split=record["split"], root=root, options=ReadOptions(item="object"))
    example = next(e for e in data if e.objects[0] == str(record["ref_id"]))
    assert not example.masks.any() and not example.no_target.any()
