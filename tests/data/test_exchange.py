"""Data sets in other forms: what goes there and back is what it was, and what cannot go is told."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from data import refer_maker as maker
from refseg.cli import app, load_verbs
from refseg.data.catalog import Place, open_dataset, open_table, own_refer, refs_files
from refseg.data.convert import read_lines, write_jsonl, write_refer
from refseg.data.dataset import ReadOptions
from refseg.data.formats.masks import mask_from_polygons, rle_of_mask
from refseg.data.formats.phrase_line import PhraseLine, write_phrases
from refseg.errors import InvalidInput

CASES = Path(__file__).parents[1] / "parity" / "cases" / "datasets"
SIZE = (14, 20)
words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
).filter(str.strip)
number = st.floats(-5, 25).map(lambda v: round(v, 2))
polygons = st.lists(st.lists(st.tuples(number, number), min_size=3, max_size=6), min_size=1, max_size=3).map(
    lambda parts: [[v for point in part for v in point] for part in parts]
)


def drawn(parts):
    return mask_from_polygons(parts, SIZE)


seen = polygons.filter(lambda parts: bool(drawn(parts).any()))
masks = seen | seen.map(lambda parts: rle_of_mask(drawn(parts)))


@st.composite
def lines(draw, with_no_target):
    """Lines whose ids name record and sentence, as those are that were converted from REFER."""
    found, sentence = [], 0
    for record in range(draw(st.integers(1, 5))):
        absent = with_no_target and draw(st.booleans())
        mask = None if absent else (draw(masks),)
        shared = {
            "frames": (f"{draw(st.integers(0, 2))}.png",),
            "masks": mask,
            "split": draw(st.sampled_from(["train", "val", "testA"])),
            "category": None if absent else draw(st.none() | words),
        }
        for _ in range(draw(st.integers(1, 3))):
            found.append(PhraseLine(phrase=draw(words), id=f"{record * 3}-{sentence}", **shared))
            sentence += 1
    return found


def pictures(root):
    for index in range(3):
        Image.new("RGB", SIZE[::-1]).save(root / f"{index}.png")


def back(folder, base):
    """The lines of a converted folder, all splits, in the order of the file."""
    files = refs_files(folder) or [folder / "grefs(refseg).json"]
    several = files[0].name.startswith("grefs")
    facts = own_refer(folder, files[0])
    if several:
        from dataclasses import replace

        facts = replace(facts, form="grefcoco", split_by="refseg")
    from refseg.data.convert import lines_of
    from refseg.data.readers.image_set import PictureFolders, ReferenceImages

    table = open_table(Place(facts, folder))
    options = ReadOptions(text="raw")
    data = ReferenceImages("made", table, PictureFolders([base]), split=None, options=options)
    return list(lines_of(data, base))


@settings(max_examples=40)
@given(st.booleans().flatmap(lambda several: st.tuples(st.just(several), lines(several))))
def test_lines_written_as_refer_come_back_as_they_were(case):
    several, written = case
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        pictures(root)
        write_phrases(root / "all.jsonl", written)
        done = write_refer(
            read_lines(root / "all.jsonl"), root / "made", root=root, split_by="refseg", several=several
        )
        assert not done.lost
        assert back(root / "made", root) == written


@settings(max_examples=25)
@given(lines(False))
def test_references_written_as_lines_come_back_as_they_were(written):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        pictures(root)
        write_refer(written, root / "first", root=root, split_by="refseg", several=False)
        between = back(root / "first", root)
        write_refer(between, root / "second", root=root, split_by="refseg", several=False)
        tables = [
            open_table(Place(own_refer(root / name, root / name / "refs(refseg).p"), root / name))
            for name in ("first", "second")
        ]
        one, other = tables
        assert len(one) == len(other)
        for row in range(len(one)):
            first, second = one.reference(row), other.reference(row)
            assert (first.id, first.split, first.sentences) == (second.id, second.split, second.sentences)
            assert first.picture.file == second.picture.file
            assert one.categories[first.objects[0].category] == other.categories[second.objects[0].category]
            assert torch.equal(one.mask(row), other.mask(row))


def test_what_refer_cannot_carry_is_told_or_refused(tmp_path):
    pictures(tmp_path)
    square = [[2, 2, 9, 2, 9, 9, 2, 9]]
    told = PhraseLine(("0.png",), "the cat", (square,), register="short", id="my-cat")
    done = write_refer([told], tmp_path / "a", root=tmp_path, split_by="x", several=False)
    assert len(done.lost) == 3
    assert "registers were left out" in done.lost[0] and "ids" in done.lost[1] and "no split" in done.lost[2]
    absent = PhraseLine(("0.png",), "the cat", None)
    with pytest.raises(InvalidInput, match="which REFER cannot say; write gRefCOCO"):
        write_refer([absent], tmp_path / "b", root=tmp_path, split_by="x", several=False)
    clip = PhraseLine(("0.png", "1.png"), "the cat", (square, None))
    with pytest.raises(InvalidInput, match="is about a clip; REFER knows pictures only"):
        write_refer([clip], tmp_path / "b", root=tmp_path, split_by="x", several=True)
    with pytest.raises(InvalidInput, match="a exists; give the name of a new folder"):
        write_refer([told], tmp_path / "a", root=tmp_path, split_by="x", several=False)
    with pytest.raises(InvalidInput, match="no line to convert"):
        write_refer([], tmp_path / "c", root=tmp_path, split_by="x", several=False)
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


def test_a_turned_picture_is_refused(tmp_path):
    picture = Image.new("RGB", (9, 6))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "0.jpg", exif=exif)
    line = PhraseLine(("0.jpg",), "x", ([[1, 1, 4, 1, 4, 4]],))
    with pytest.raises(InvalidInput, match="turned by its EXIF orientation"):
        write_refer([line], tmp_path / "a", root=tmp_path, split_by="x", several=False)


def test_pictures_outside_the_base_are_refused(tmp_path):
    maker.write(tmp_path)
    data = open_dataset("refcoco", split="train", root=tmp_path)
    (tmp_path / "deep").mkdir()
    with pytest.raises(InvalidInput, match=r"lies outside .*deep, which paths start from; .*--base"):
        write_jsonl(data, tmp_path / "deep" / "x.jsonl", tmp_path / "deep")


@pytest.mark.parametrize(
    ("case", "name", "split"),
    [
        ("refcoco", "refcoco", "train"),
        ("refclef", "refclef-unc", "testA"),
        ("grefcoco", "grefcoco", "val"),
        ("mevis", "mevis", "train"),
        ("ref_youtube_vos", "ref-youtube-vos", "train"),
        ("ref_davis17", "ref-davis17", "valid"),
        ("jhmdb_sentences", "jhmdb", None),
    ],
)
def test_miniatures_in_the_open_form_have_the_same_phrases_and_masks(tmp_path, case, name, split):
    root = tmp_path / case
    shutil.copytree(CASES / case, root)
    data = open_dataset(name, split=split, root=root)
    write_jsonl(data, root / "all.jsonl", root)
    copy = open_dataset(root / "all.jsonl")
    for one, other in zip(_by_phrase(data), _by_phrase(copy), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])


def _by_phrase(data):
    for example in data:
        yield from zip(example.phrases, example.masks, strict=True)


def test_parts_without_masks_or_in_video_files_are_refused(tmp_path):
    for case, name, split, told in (
        ("ref_youtube_vos", "ref-youtube-vos", "valid", "has no masks"),
        ("a2d_sentences", "a2d", "test", "lie inside other files"),
    ):
        shutil.copytree(CASES / case, tmp_path / case)
        data = open_dataset(name, split=split, root=tmp_path / case)
        with pytest.raises(InvalidInput, match=told):
            write_jsonl(data, tmp_path / "x.jsonl", tmp_path)


def run(*told):
    load_verbs()
    return CliRunner().invoke(app, ["data", *map(str, told)])


def test_the_command_converts_and_tells_what_was_lost(tmp_path):
    maker.write(tmp_path)
    done = run("convert", "refcoco", tmp_path / "r.jsonl", "--split", "train", "--root", tmp_path, "--json")
    told = json.loads(done.stdout)
    assert told["records"] == 4 and "only 'sent' was written" in told["lost"][0]
    assert run("convert", tmp_path / "r.jsonl", tmp_path / "made", "--to", "refer").exit_code == 0
    assert len(open_dataset(tmp_path / "made", split="train", options=ReadOptions(images=tmp_path))) == 2
    assert (
        run(
            "convert", "refcoco", tmp_path / "c", "--to", "coco", "--split", "val", "--root", tmp_path
        ).exit_code
        == 0
    )
    assert (tmp_path / "c" / "instances_refcoco_val.json").is_file()
    assert (
        run(
            "convert", "refcoco", tmp_path / "v", "--to", "vlt", "--split", "val", "--root", tmp_path
        ).exit_code
        == 0
    )
    assert len(list((tmp_path / "v" / "masks" / "refcoco").iterdir())) == 2
    for words, refusal in (
        (["refcoco", tmp_path / "r.jsonl", "--root", tmp_path], "exists"),
        (["refcoco", tmp_path / "r.txt", "--root", tmp_path], "no .jsonl file"),
        (["refcoco", tmp_path / "r", "--to", "cocoa"], "did you mean 'coco'"),
        ([tmp_path / "r.jsonl", tmp_path / "s.jsonl"], "in the open form already"),
        (["scenes", tmp_path / "s.jsonl"], "refseg data scenes --out"),
    ):
        assert refusal in str(run("convert", *words).exception)


def test_the_command_lists_data_sets_and_finds_them(tmp_path):
    maker.write(tmp_path)
    done = run("list", "--root", tmp_path)
    assert f"{tmp_path / 'refcoco'}" in done.stdout and "mevis" in done.stdout
    told = json.loads(run("list", "refcoco", "--root", tmp_path, "--json").stdout)["data_sets"][0]
    assert told["found"] == str(tmp_path / "refcoco") and told["splits"]["testB"]["phrases"] == 5095
    page = run("list", "mevis", "--root", tmp_path).stdout
    assert "train: 1,662 videos, 23,051 phrases" in page and "not found here" in page
    assert "no data set named 'refcco'" in str(run("list", "refcco").exception)


def test_vlt_passes_over_three_pictures_of_refclef(tmp_path):
    things = maker.instances()
    things["images"][1]["file_name"] = "17975.jpg"
    maker.write(tmp_path, maker.records(splits=("train",)), things)
    done = run("convert", "refcoco", tmp_path / "v", "--to", "vlt", "--split", "train", "--root", tmp_path)
    assert (
        "2 records" in done.stdout
        and "2 objects of pictures that VLT passes over were left out" in done.stdout
    )
    assert sorted(path.name for path in (tmp_path / "v" / "masks" / "refcoco").iterdir()) == [
        "0.png",
        "1.png",
    ]


def test_pictures_inside_other_files_are_written_out_where_a_folder_is_named(tmp_path):
    shutil.copytree(CASES / "a2d_sentences", tmp_path / "a2d")
    data = open_dataset("a2d", split="test", root=tmp_path / "a2d")
    write_jsonl(data, tmp_path / "a2d.jsonl", tmp_path, extract=tmp_path / "frames")
    opened = open_dataset(tmp_path / "a2d.jsonl")
    assert len(opened) == len(data)
    for index, example in enumerate(opened):
        stored = data[index]
        assert torch.equal(example.frames, stored.frames[stored.target_frames])
        assert torch.equal(example.masks, stored.masks) and example.phrases == stored.phrases


def test_pictures_of_parquet_files_are_written_out(tmp_path):
    pytest.importorskip("pyarrow")
    shutil.copytree(CASES / "refcoco_parquet" / "lmms_form", tmp_path / "lmms")
    data = open_dataset(tmp_path / "lmms", split="val", options=ReadOptions(item="phrase"))
    write_jsonl(data, tmp_path / "val.jsonl", tmp_path, extract=tmp_path / "pictures")
    opened = open_dataset(tmp_path / "val.jsonl")
    lines = [
        (e.frames, mask, phrase) for e in opened for mask, phrase in zip(e.masks, e.phrases, strict=True)
    ]
    assert len(lines) == len(data)
    for (frames, mask, phrase), stored in zip(lines, data, strict=True):
        assert phrase == stored.phrases[0]
        assert torch.equal(frames, stored.frames) and torch.equal(mask, stored.masks[0])


def test_lines_become_the_coco_form_and_come_back(tmp_path):
    maker.write(tmp_path, maker.records(6))
    data = open_dataset("refcoco", split="val", root=tmp_path)
    write_jsonl(data, tmp_path / "things.jsonl", tmp_path)
    load_verbs()
    done = CliRunner().invoke(
        app,
        [
            "data",
            "convert",
            str(tmp_path / "things.jsonl"),
            str(tmp_path / "things"),
            "--to",
            "coco",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["paths"] == [str(tmp_path / "things" / "instances_things_val.json")]
    again = open_dataset(tmp_path / "things", split="val")
    assert [e.phrases for e in again] == [e.phrases for e in data]
    for one, other in zip(again, data, strict=True):
        assert torch.equal(one.masks, other.masks) and torch.equal(one.frames, other.frames)
