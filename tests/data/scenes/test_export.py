import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from data.scenes.helpers import shapes
from refseg.data.catalog import open_dataset
from refseg.data.scenes.export import write_scenes
from refseg.data.scenes.sheet import contact_sheet
from refseg.errors import InvalidInput

ROOT = Path(__file__).parents[3]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_phrase_gets_a_line_whose_mask_decodes_to_it(tmp_path):
    scenes = shapes(split="val", phrases=4, size=65)
    lines = lines_of(write_scenes(tmp_path / "out", spec=scenes.spec, count=3))
    assert len(lines) == 12
    for number, line in enumerate(lines):
        example, place = scenes[number // 4], number % 4
        assert line["phrase"] == example.phrases[place]
        assert line["register"] == example.registers[place]
        assert line["split"] == "val"
        wanted = example.masks[place, 0].numpy()
        if line.get("no_target"):
            assert not wanted.any()
            assert "mask" not in line
        else:
            code = {"size": line["mask"]["size"], "counts": line["mask"]["counts"].encode()}
            assert (rle.decode(code).astype(bool) == wanted).all()
        frame = np.array(Image.open(tmp_path / "out" / line["image"]))
        assert (frame == example.frames[0].permute(1, 2, 0).numpy()).all()
    assert len({line["id"] for line in lines}) == 12


def test_a_clip_gets_a_list_of_frames_and_of_masks(tmp_path):
    scenes = shapes(frames=3, phrases=2)
    lines = lines_of(write_scenes(tmp_path / "out", spec=scenes.spec, count=2))
    for line in lines:
        assert len(line["frames"]) == 3
        assert all((tmp_path / "out" / name).is_file() for name in line["frames"])
        assert line.get("no_target") or len(line["mask"]) == 3


def test_the_origin_names_what_made_the_scenes(tmp_path):
    spec = shapes(seed=5).spec
    write_scenes(tmp_path / "out", spec=spec, count=2)
    origin = json.loads((tmp_path / "out/origin.json").read_text())
    assert (origin["seed"], origin["count"], origin["split"]) == (5, 2, "train")
    assert len(origin["sprites_hash"]) == 64


def test_an_existing_folder_is_replaced_only_by_force(tmp_path):
    out = tmp_path / "out"
    write_scenes(out, spec=shapes().spec, count=2)
    with pytest.raises(InvalidInput, match="--force"):
        write_scenes(out, spec=shapes().spec, count=1)
    assert len(list((out / "images").iterdir())) == 2
    write_scenes(out, spec=shapes().spec, count=1, force=True)
    assert len(list((out / "images").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_does_not_replace_a_folder_of_something_else(tmp_path):
    (tmp_path / "letters.txt").write_text("dear ...")
    with pytest.raises(InvalidInput, match="remove it yourself"):
        write_scenes(tmp_path, spec=shapes().spec, count=1, force=True)
    assert (tmp_path / "letters.txt").is_file()


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", spec=shapes().spec, count=2, on_scene=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_scenes(tmp_path):
    seen = []
    write_scenes(tmp_path / "out", spec=shapes().spec, count=3, on_scene=seen.append)
    assert seen == [1, 2, 3]


def test_a_place_that_cannot_be_written_gets_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_scenes(tmp_path / "file/out", spec=shapes().spec, count=1)


def test_a_contact_sheet_shows_one_cell_for_a_phrase_and_frame():
    sheet = contact_sheet([shapes(frames=2, phrases=3)[0]], side=50, columns=2)
    assert sheet.size == (2 * 54, 3 * 86)


def test_the_open_form_reads_back_as_it_was_drawn(tmp_path):
    scenes = shapes(phrases=5, frames=2, split="val")
    write_scenes(tmp_path / "out", spec=scenes.spec, count=4)
    found = open_dataset(tmp_path / "out")
    assert len(found) == 4
    for index in range(4):
        assert found[index].phrases == scenes[index].phrases
        assert torch.equal(found[index].frames, scenes[index].frames)
        assert torch.equal(found[index].masks, scenes[index].masks)


@pytest.mark.parametrize("folder", ["src/refseg/assets/examples", "tests/assets/scenes40"])
def test_stored_scenes_are_in_the_open_form_and_small(folder):
    path = ROOT / folder
    found = open_dataset(path)
    for index in range(len(found)):
        example = found[index]
        for masks, register in zip(example.masks, example.registers, strict=True):
            assert bool(masks.any()) == (register != "none")
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 1_500_000
    assert (path / "LICENSE.txt").is_file()
