import argparse
import hashlib

import pytest
import torch

from checkpoints import tiny
from refseg.checkpoints import native
from refseg.checkpoints.conversion import convert, variants_that_fit
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.models import catalog


@pytest.fixture(autouse=True)
def _only_tiny(monkeypatch):
    monkeypatch.setattr(catalog, "FAMILIES", {"tiny": "checkpoints.tiny"})


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"words": ["é"]}', encoding="utf-8")
    return path


def published(path, variant="debug", **more):
    content = {"model": {**tiny.published(variant), **more}, "args": argparse.Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def converted(tmp_path, source, words=None, **changes):
    settings = {"family": "tiny", "variant": "debug", "tokenizer": words, **changes}
    return convert(source, tmp_path / "out.safetensors", **settings)


def test_a_published_file_becomes_ours_with_every_value_in_its_place(tmp_path, words):
    source = published(tmp_path / "p.pth")
    done = converted(tmp_path, source, words)
    model, header = native.load(done.path)
    state = tiny.published()
    assert torch.equal(model.stages[1].weight, state["net.conv1.weight"])
    assert torch.equal(model.both.bias, torch.cat([state["net.left.bias"], state["net.right.bias"]]))
    assert model.steps == 7
    assert model.words == '{"words": ["é"]}'
    assert header.origin == {"file": "p.pth", "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}


def test_the_report_names_what_was_renamed_merged_and_dropped(tmp_path, words):
    source = published(tmp_path / "p.pth", **{"net.total_ops": torch.tensor(3)})
    report = converted(tmp_path, source, words).report
    assert report.renamed["net.conv0.bias"] == "stages.0.bias"
    assert report.merged["both.weight"] == ("net.left.weight", "net.right.weight")
    assert report.dropped == {"net.total_ops": "left by a profiler"}


def test_names_left_on_both_sides_are_listed_and_nothing_is_written(tmp_path, words):
    state = tiny.published()
    state["head.weight"] = state.pop("net.conv0.weight")
    torch.save(state, tmp_path / "p.pth")
    with pytest.raises(CheckpointMismatch) as caught:
        converted(tmp_path, tmp_path / "p.pth", words)
    assert caught.value.missing == ("stages.0.weight",) and caught.value.unexpected == ("head.weight",)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("other", ["wide", "long"])
def test_a_wrong_variant_is_told_which_one_fits(tmp_path, words, other):
    source = published(tmp_path / "p.pth", other)
    with pytest.raises(
        CheckpointMismatch, match=rf"p\.pth is not tiny debug.*--family tiny --variant {other}\b"
    ):
        converted(tmp_path, source, words)


def test_weights_that_fit_nothing_suggest_nothing(tmp_path, words):
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "p.pth")
    with pytest.raises(CheckpointMismatch) as caught:
        converted(tmp_path, tmp_path / "p.pth", words)
    assert "--variant" not in str(caught.value)


def test_the_variants_that_fit_are_found_by_shapes_and_names():
    assert list(variants_that_fit(tiny.published("wide"))) == [("tiny", "wide")]


def test_without_a_tokenizer_the_message_says_what_to_type(tmp_path):
    source = published(tmp_path / "p.pth")
    with pytest.raises(InvalidInput, match="--tokenizer FILE"):
        converted(tmp_path, source)


def test_a_tokenizer_that_is_not_there_is_told(tmp_path):
    source = published(tmp_path / "p.pth")
    with pytest.raises(InvalidInput, match="cannot be read"):
        converted(tmp_path, source, tmp_path / "none.json")


def test_our_own_file_is_not_converted_again(tmp_path, words):
    done = converted(tmp_path, published(tmp_path / "p.pth"), words)
    with pytest.raises(InvalidInput, match="a refseg checkpoint already"):
        convert(done.path, tmp_path / "again.safetensors", family="tiny", variant="debug")


def test_names_are_checked_before_the_file_is_read(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'debug'"):
        converted(tmp_path, tmp_path / "none.pth", variant="debg")


def test_origin_and_storage_type_are_kept(tmp_path, words):
    source = published(tmp_path / "p.pth")
    done = converted(tmp_path, source, words, dtype=torch.float16, origin={"repository": "here"})
    model, header = native.load(done.path)
    assert header.origin["repository"] == "here" and header.origin["file"] == "p.pth"
    assert torch.equal(model.both.bias, model.both.bias.half().float())
