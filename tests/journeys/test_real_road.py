"""The whole road with nothing replaced: a checkpoint file of ours, a process of its own, files at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import refseg
from refseg.checkpoints import native
from refseg.models import catalog

SOURCE = Path(__file__).parents[2] / "src"
# A family whose words are data, and one whose tokenizer is a file.
FAMILIES = {"scout": "left star", "referformer": "the dog on the left", "vlformer": "the dog on the left"}


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tmp_path):
    """A freshly initialised debug variant as a file, and a phrase that it understands."""
    torch.manual_seed(0)
    model = catalog.build(request.param, "debug")
    path = tmp_path / f"{request.param}.safetensors"
    native.save(path, model, family=request.param, variant="debug", origin={"made": "by a test"})
    return path, FAMILIES[request.param]


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-m", "refseg", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_and_the_library_give_the_same_answer(tmp_path, checkpoint, photo):
    path, phrase = checkpoint
    done = run(tmp_path, "predict", path, photo, phrase, "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (answer,) = refseg.load(path, device="cpu")(photo, [phrase])
    assert told["rle"] == answer.to_rle()
    assert told["score"] == pytest.approx(answer.score, abs=1e-5)
    mask = np.array(Image.open(tmp_path / "refseg-out" / told["mask"])) > 0
    assert np.array_equal(mask, answer.masks[0].numpy())


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, photo):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    done = run(tmp_path, "predict", tmp_path / "weights.safetensors", photo, "left star")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "weights.safetensors" in done.stderr
    assert not (tmp_path / "refseg-out").exists()


def test_an_unknown_checkpoint_is_one_sentence_with_the_nearest_name(tmp_path, photo):
    done = run(tmp_path, "predict", "scuot", photo, "left star")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no checkpoint named 'scuot'" in done.stderr and "'scout'" in done.stderr


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has CUDA, and the test asks for it in vain"
)
def test_cuda_asked_for_and_absent_is_one_sentence_before_the_checkpoint_is_read(tmp_path, photo):
    done = run(tmp_path, "predict", "scout", photo, "left star", "--device", "cuda")
    assert done.returncode == 2
    assert "device 'cuda' was asked for" in done.stderr and len(done.stderr.strip().splitlines()) == 1
