"""From a published file to answers: convert, predict, evaluate, as a person does it."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.miniatures import place
from helpers.cli import call
from models.lgformer import published
from refseg.checkpoints import native
from refseg.encoders.tokenizers.wordpiece import LETTERS_VOCABULARY, SPECIALS, letters_vocabulary
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.models import catalog

WORDS = ["--family", "lgformer", "--variant", "debug"]


@pytest.fixture
def model():
    torch.manual_seed(4)
    return catalog.build("lgformer", "debug").eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    """A published file, converted."""
    out = tmp_path / "lgformer-refcoco.safetensors"
    source = published.write(tmp_path / "model_refcoco.pth", model)
    assert call("convert", source, *WORDS, "--out", out).exit_code == 0
    return out


def test_a_published_file_with_its_arguments_inside_becomes_ours(model, checkpoint):
    held = native.load(checkpoint)[0].state_dict()
    assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())


def test_no_code_in_the_file_is_run(model, tmp_path):
    """The arguments are an object of a class that does not exist when the file is read."""
    module = types.ModuleType("authors_module")
    exec(
        "class Options:\n    def __setstate__(self, state): raise SystemError('code was run')",
        module.__dict__,
    )
    sys.modules["authors_module"] = module
    try:
        options = module.Options()
        options.lr = 1
        source = published.write(tmp_path / "model.pth", model, args=options)
    finally:
        del sys.modules["authors_module"]
    assert call("convert", source, *WORDS, "--out", tmp_path / "out.safetensors").exit_code == 0


def test_what_is_left_out_is_told_with_the_reason(model, tmp_path):
    source = published.write(tmp_path / "model.pth", model)
    told = call("convert", source, *WORDS, "--out", tmp_path / "out.safetensors", "--json").stdout
    assert "decide nothing" in told
    assert "normalisation over positions takes away" in told


def test_a_file_that_lacks_a_weight_is_refused_by_name(model, tmp_path):
    state = published.published_state(model)
    del state["classifier.txt_proj.bias"]
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(CheckpointMismatch, match=r"query_decoder\.text_projection\.bias"):
        call("convert", tmp_path / "model.pth", *WORDS, "--out", tmp_path / "out.safetensors")


def test_a_converted_file_answers_phrases_about_a_picture(checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (45, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    out = tmp_path / "answers"
    done = call(
        "predict",
        checkpoint,
        tmp_path / "photo.png",
        "a dog",
        "the " * 30,
        "--device",
        "cpu",
        "--out",
        out,
        "--json",
    )
    assert done.exit_code == 0
    assert done.stdout.count('"size": [45, 70]') + done.stdout.count('"size":[45,70]') >= 2


@pytest.mark.parametrize("data", ["refcoco", "refcocog-umd", "refclef-unc"])
def test_published_numbers_are_taken_on_the_canvas_and_ours_at_the_source(data, checkpoint, tmp_path):
    root = place(data, tmp_path)
    done = call("evaluate", checkpoint, data, "--root", root, "--device", "cpu", "--json")
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert "lgformer" in record["protocols"]
    assert set(record["protocols"]) & {"source"}
    scores = record["protocols"]["lgformer"]["scores"]
    assert {"oIoU", "mIoU", "P@0.5", "P@0.9"} <= set(scores)


def test_a_tokenizer_of_another_kind_is_refused(model, tmp_path):
    text = json.loads(letters_vocabulary())
    text["model"]["vocab"] |= {f"more{n}": LETTERS_VOCABULARY + n for n in range(3)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(text))
    source = published.write(tmp_path / "model.pth", model)
    with pytest.raises(InvalidInput, match="entries"):
        call(
            "convert",
            source,
            *WORDS,
            "--tokenizer",
            tmp_path / "tokenizer.json",
            "--out",
            tmp_path / "o.safetensors",
        )
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIALS) + "\n")
    done = call(
        "convert", source, *WORDS, "--tokenizer", tmp_path / "vocab.txt", "--out", tmp_path / "o.safetensors"
    )
    assert done.exit_code == 0


def test_fusion_heads_which_no_weight_tells_are_said_by_hand(model, tmp_path):
    source, out = published.write(tmp_path / "model.pth", model), tmp_path / "out.safetensors"
    assert call("convert", source, *WORDS, "--set", "fusion_heads=[2,1,2,1]", "--out", out).exit_code == 0
    assert native.load(out)[0].config.fusion_heads == (2, 1, 2, 1)
    with pytest.raises(UnknownName, match="fusion_heads"):
        call("convert", source, *WORDS, "--set", "fusion_head=[2,1,2,1]", "--out", tmp_path / "o.safetensors")
    with pytest.raises(InvalidInput, match="KEY=VALUE"):
        call("convert", source, *WORDS, "--set", "fusion_heads", "--out", tmp_path / "o.safetensors")
