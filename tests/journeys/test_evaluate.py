"""From scenes on disk to a table of results, through the real command in processes of its own."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from refseg.checkpoints import native
from refseg.data.scenes.vocabulary import WORDS
from refseg.models import catalog

SOURCE = Path(__file__).parents[2] / "src"


def refseg(*words):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "refseg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a checkpoint that has learnt nothing and takes nearly every pixel, and scenes."""
    folder = tmp_path_factory.mktemp("world")
    config = replace(
        catalog.variant("scout", "debug").for_words(WORDS), threshold=0.01, existence_threshold=0.0
    )
    model = catalog.build("scout", config)
    native.save(folder / "toy.safetensors", model, family="scout", variant="debug", origin={})
    words = ("--count", 4, "--size", 48, "--phrases", 2, "--sprites", "none")
    done = refseg("data", "scenes", "--out", folder / "scenes", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "scenes" / "phrases.jsonl")
    return folder


def test_scenes_on_disk_are_evaluated_like_scenes_drawn_at_once(world):
    stored = refseg("evaluate", world / "toy.safetensors", world / "scenes", "--device", "cpu", "--json")
    words = ("--count", 4, "--size", 48, "--phrases", 2, "--sprites", "none", "--device", "cpu", "--json")
    drawn = refseg("evaluate", world / "toy.safetensors", "scenes", *words)
    assert stored.returncode == drawn.returncode == 0, stored.stderr + drawn.stderr
    assert json.loads(stored.stdout)["scores"] == json.loads(drawn.stdout)["scores"]
    assert json.loads(stored.stdout)["data"]["phrases"] == 8
    assert 0 < json.loads(stored.stdout)["scores"]["all"]["oIoU"] < 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "images/000000.png", "phrase": "red star"}', 'bad.jsonl line 1: the line has no "mask"'),
        (
            '{"image": "images/none.png", "phrase": "red star", "no_target": true}',
            "bad.jsonl line 1: there is no picture",
        ),
        ('{"image": "images/000000.png", "phrase": "purr star", "no_target": true}', "'purr'"),
    ],
)
def test_a_wrong_line_is_one_sentence_and_code_2(world, line, said):
    (world / "scenes" / "bad.jsonl").write_text(line + "\n")
    done = refseg("evaluate", world / "toy.safetensors", world / "scenes" / "bad.jsonl", "--device", "cpu")
    (world / "scenes" / "bad.jsonl").unlink()
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
