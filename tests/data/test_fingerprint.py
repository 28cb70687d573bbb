"""Hashes of data: of every file that says what is asked, and of scenes as they are drawn."""

import hashlib
import json

import pytest

from evaluation.miniatures import FOLDERS, opened, place
from refseg.data.catalog import open_dataset
from refseg.data.dataset import Subset
from refseg.data.scenes.dataset import Scenes, ScenesSpec

FILES = {
    "refcoco": {"instances.json", "refs(unc).p"},
    "grefcoco": {"instances.json", "grefs(unc).json"},
    "ref-youtube-vos": {"meta_expressions/train/meta_expressions.json", "train/meta.json"},
    "ref-davis17": {"davis_text_annotations/Davis17_annot2_full_video.txt", "DAVIS/ImageSets/2017/val.txt"},
    "a2d": {"text_annotations/a2d_annotation.txt", "Release/videoset.csv"},
    "jhmdb": {"jhmdb_sentences_samples_metadata.json"},
    "mevis": {"valid_u/meta_expressions.json", "mask_dict.json"},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_phrases_are_counted_without_reading_the_examples(name, tmp_path):
    data = opened(name, tmp_path)
    assert data.num_phrases == sum(len(example.phrases) for example in data)


@pytest.mark.parametrize("name", FILES)
def test_every_annotation_file_is_hashed(name, tmp_path):
    told = opened(name, tmp_path).fingerprint()
    assert set(told["sources"]) >= FILES[name]
    there = [path for path in place(name, tmp_path).rglob("*.*") if path.is_file()]
    for file, digest in told["sources"].items():
        whole = [path for path in there if path.as_posix().endswith(f"/{file}")]
        assert digest in {hashlib.sha256(path.read_bytes()).hexdigest() for path in whole}
    json.dumps(told, allow_nan=False)


def phrase_file(folder, phrases=("left", "right", "top")):
    pixels = {"mask": {"size": [4, 4], "counts": [0, 16]}}
    lines = [
        json.dumps({"image": f"{n}.png", "phrase": phrase, **pixels}) for n, phrase in enumerate(phrases)
    ]
    from PIL import Image

    for number in range(len(phrases)):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    (folder / "mine.jsonl").write_text("\n".join(lines))
    return open_dataset(folder / "mine.jsonl")


def test_a_phrase_file_is_known_by_its_bytes(tmp_path):
    data = phrase_file(tmp_path)
    told = data.fingerprint()
    assert told["sha256"] == hashlib.sha256((tmp_path / "mine.jsonl").read_bytes()).hexdigest()
    assert told["phrases"] == 3
    part = Subset(data, [0, 2]).fingerprint()
    assert part["sha256"] == told["sha256"]
    assert (part["phrases"], part["kept"]["examples"]) == (2, 2)
    assert part["kept"] != Subset(data, [0, 1]).fingerprint()["kept"]


def test_scenes_are_known_by_what_they_show():
    def told(**fields):
        return Scenes(ScenesSpec(sprites="none", size=32, count=10, **fields)).fingerprint()

    assert told()["probe"] == told()["probe"]
    assert told()["probe"] != told(seed=1)["probe"]
    assert told()["probe"] != told(split="val")["probe"]
    assert told(phrases=2)["sprites_hash"] == told()["sprites_hash"]
    assert Scenes(ScenesSpec(sprites="none", count=10, phrases=4)).num_phrases == 40
