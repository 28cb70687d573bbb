"""The whole road through the command line: a published file, converted, asked and measured."""

import json

import numpy as np
from PIL import Image

from helpers.keras_files import write_keras
from models.vlt.files import layers_of, published_file, renumbered
from training.recipes import made_data

PHRASES = "the left box\nthe right box\nthe red thing on the left\nthe red thing on the right\n"


def test_a_published_file_is_converted_asked_and_measured(tmp_path, command):
    published_file(tmp_path / "best_map.h5")
    made_data(tmp_path / "data")
    ours, photo = tmp_path / "vlt.safetensors", tmp_path / "photo.png"
    Image.fromarray(np.zeros((45, 70, 3), np.uint8)).save(photo)
    code, out, err = command(
        "convert", tmp_path / "best_map.h5", "--family", "vlt", "--variant", "debug", "-o", ours
    )
    assert (code, err) == (0, "")
    assert "left over" in out
    code, out, err = command("predict", ours, photo, "the left box", "-o", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["size"] == [45, 70]
    code, out, err = command(
        "evaluate", ours, tmp_path / "data" / "made.jsonl", "--split", "train", "--protocol", "vlt", "--json"
    )
    assert code == 0, err
    assert "vlt" in out


def test_a_file_with_names_of_a_training_run_gives_the_same_checkpoint(tmp_path, command):
    layers = layers_of()
    hashes = []
    for name, content in (("named", layers), ("renumbered", renumbered(layers))):
        path = write_keras(tmp_path / f"{name}.h5", content)
        target = tmp_path / f"{name}.safetensors"
        code, out, err = command(
            "convert", path, "--family", "vlt", "--variant", "debug", "-o", target, "--json"
        )
        assert code == 0, err
        hashes.append(json.loads(out)["sha256"])
    assert hashes[0] == hashes[1]


def test_word_vectors_are_read_once_and_a_second_time_only_by_force(tmp_path, command, monkeypatch):
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
    (tmp_path / "tiny.300d.txt").write_text("dog 1 2 3\ncat 4 5 6\n")
    code, out, _ = command("vectors", tmp_path / "tiny.300d.txt", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "tiny.300d"
    code, _, err = command("vectors", tmp_path / "tiny.300d.txt")
    assert code == 2
    assert "--force" in err
    assert command("vectors", tmp_path / "tiny.300d.txt", "--force")[0] == 0
