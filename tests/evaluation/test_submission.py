"""Submissions are what servers expect, and the checker finds what they would refuse."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.miniatures import LeftModel, opened, predictor
from refseg.errors import InvalidInput, UnknownName
from refseg.evaluation.run import evaluate
from refseg.evaluation.submission import Writer
from refseg.evaluation.submission_check import check_submission, expected_videos
from refseg.metrics import protocols


def written(name, tmp_path, *, split="valid", out="out.zip", **options):
    dataset = opened(name, tmp_path, split)
    writer = Writer(tmp_path / out, name, **options)
    chosen = (protocols.REF_DAVIS,) if name == "ref-davis17" else (protocols.HONEST_VIDEO,)
    evaluate(predictor(), dataset, protocols=chosen, writer=writer)
    return writer.finish(), dataset


def findings(path, name, dataset):
    return check_submission(path, name, expected_videos(dataset)).counts


def edited(path, change):
    """The archive with `change(name, data)` in the place of every entry: a pair, or None to drop it."""
    result = path.with_name("edited.zip")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            for entry in change(name, source.read(name)):
                target.writestr(*entry)
    return result


def png(array, mode=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "top"), [("ref-youtube-vos", "Annotations/"), ("mevis", "")])
def test_archives_hold_a_grey_mask_of_every_frame_of_every_phrase(name, top, tmp_path):
    path, dataset = written(name, tmp_path)
    wanted = set()
    for index in range(len(dataset)):
        known = dataset.annotation(index)
        wanted |= {
            f"{top}{known.name}/{number}/{frame}.png" for number in known.ids for frame in known.frames
        }
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == wanted
        picture = Image.open(io.BytesIO(archive.read(sorted(wanted)[0])))
    assert picture.mode == "L"
    width = picture.width
    left = np.arange(width) + 0.5 < width / 2
    assert np.array_equal(np.array(picture), np.tile(left * np.uint8(255), (picture.height, 1)))
    assert findings(path, name, dataset) == {}
    assert not list(tmp_path.glob("*.part"))


def test_a_tree_of_ref_davis_holds_an_index_map_of_every_run(tmp_path):
    path, dataset = written("ref-davis17", tmp_path, out="tree")
    frames = {f"{video.name}/{frame}.png" for video in dataset.videos for frame in video.frames}
    for run in range(4):
        folder = path / f"anno_{run}"
        assert {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")} == frames
    picture = Image.open(sorted(path.rglob("*.png"))[0])
    assert picture.mode == "P"
    assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert findings(path, "ref-davis17", dataset) == {}


def test_the_same_masks_give_the_same_bytes(tmp_path):
    first, _ = written("mevis", tmp_path)
    second, _ = written("mevis", tmp_path, out="again.zip")
    assert first.read_bytes() == second.read_bytes()


class MortalModel(LeftModel):
    """Dies at the second video."""

    def encode_visual(self, clips):
        if self.num_encoded == 1:
            raise KeyboardInterrupt
        return super().encode_visual(clips)


def test_a_stopped_submission_goes_on_with_the_next_video(tmp_path):
    dataset = opened("ref-youtube-vos", tmp_path, "valid")
    assert len(dataset) > 1
    out = tmp_path / "out.zip"
    with pytest.raises(KeyboardInterrupt):
        evaluate(predictor(MortalModel), dataset, writer=Writer(out, dataset.name))
    assert not out.exists()
    with pytest.raises(InvalidInput, match="--resume"):
        Writer(out, dataset.name)
    writer = Writer(out, dataset.name, resumes=True)
    done = dataset.annotation(0).name
    assert writer.has(done)
    evaluate(predictor(), dataset, writer=writer)
    assert findings(writer.finish(), dataset.name, dataset) == {}


def test_an_earlier_file_and_a_wrong_ending_are_refused(tmp_path):
    (tmp_path / "out.zip").write_bytes(b"precious")
    with pytest.raises(InvalidInput, match="exists"):
        Writer(tmp_path / "out.zip", "mevis")
    with pytest.raises(InvalidInput, match=r"named \.zip"):
        Writer(tmp_path / "out", "mevis")
    with pytest.raises(InvalidInput, match="a folder"):
        Writer(tmp_path / "out2.zip", "ref-davis17")
    with pytest.raises(UnknownName, match="mevis"):
        Writer(tmp_path / "out2.zip", "mevos")


@pytest.mark.parametrize("name", ["../../../outside", "a/b", "..", "", "a\\b"])
def test_names_that_lead_out_of_the_folder_are_refused(name, tmp_path):
    dataset = opened("mevis", tmp_path, "valid")
    known = dataset[0]
    writer = Writer(tmp_path / "deep" / "out.zip", "mevis")
    masks = torch.zeros(len(known.frames), 4, 4, dtype=torch.bool)
    for changed in ({"ids": (name,)}, {"name": name}, {"frame_names": (name,) * len(known.frames)}):
        with pytest.raises(InvalidInput, match="cannot be the name"):
            writer.add(
                replace(known, **{"phrases": ("a",), "ids": ("0",), "masks": None} | changed), 0, masks, 0
            )
    assert not list(tmp_path.rglob("outside*"))


def drop_first_frame(name, data):
    return [] if name.endswith("00000.png") else [(name, data)]


def rename_top(name, data):
    return [(name.replace("Annotations/", "valid/"), data)]


def nest(name, data):
    return [("submission/" + name, data)]


def add_finder_files(name, data):
    return [(name, data), ("__MACOSX/" + name, b"x")]


def with_picture(make):
    def change(name, data):
        array = np.array(Image.open(io.BytesIO(data)))
        return [(name, make(array))]

    return change


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()


DEFECTS = {
    "missing frames": drop_first_frame,
    "outside the folder Annotations/": rename_top,
    "archiving system": add_finder_files,
    "another size": with_picture(lambda a: png(a[:-1])),
    "mode RGB": with_picture(lambda a: png(a, "RGB")),
    "mode P": with_picture(lambda a: png(a, "P")),
    "other values than 0 and 255": with_picture(lambda a: png(a // 255)),
    "cannot be read": lambda name, data: [(name, data[: len(data) // 2])],
    "cannot be read (UnidentifiedImageError)": lambda name, _: [(name, b"")],
    "in the form JPEG": with_picture(jpeg),
}


@pytest.mark.parametrize("words", DEFECTS)
def test_the_checker_finds_what_a_server_would_refuse(words, tmp_path):
    path, dataset = written("ref-youtube-vos", tmp_path)
    found = findings(edited(path, DEFECTS[words]), "ref-youtube-vos", dataset)
    assert any(words in kind for kind in found), found


def test_a_folder_too_much_is_told_with_what_was_expected(tmp_path):
    path, dataset = written("mevis", tmp_path)
    found = findings(edited(path, nest), "mevis", dataset)
    assert any("in a wrong folder" in kind for kind in found), found


def test_index_maps_with_too_many_objects_or_wrong_colours_are_found(tmp_path):
    path, dataset = written("ref-davis17", tmp_path, out="tree")
    first, second = sorted(path.rglob("*.png"))[:2]
    shape = np.array(Image.open(first)).shape
    Image.fromarray(np.full(shape, 200, dtype=np.uint8)).convert("P").save(first)
    second.unlink()
    found = findings(path, "ref-davis17", dataset)
    assert any("more objects" in kind for kind in found)
    assert any("other colours" in kind for kind in found)
    assert any("missing frames" in kind for kind in found)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x05\x06" + b"\x00" * 18])
def test_what_is_no_archive_is_one_sentence(content, tmp_path):
    dataset = opened("mevis", tmp_path, "valid")
    path = tmp_path / "some.zip"
    if content is not None:
        path.write_bytes(content)
    if content is not None and content.startswith(b"PK"):
        assert any("missing" in kind for kind in findings(path, "mevis", dataset))
        return
    with pytest.raises(InvalidInput, match=r"some\.zip"):
        findings(path, "mevis", dataset)


@pytest.mark.parametrize("place", range(1, 12))
def test_damage_anywhere_is_found_and_never_a_traceback(place, tmp_path):
    path, dataset = written("mevis", tmp_path)
    data = path.read_bytes()
    middle = len(data) * place // 12
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])
    try:
        found = findings(path, "mevis", dataset)
    except InvalidInput as error:
        found = {str(error): 1}
    assert found
