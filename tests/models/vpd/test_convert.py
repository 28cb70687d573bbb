"""Published files become ours: with the companion they leave out, or as the start of a training."""

import argparse
import dataclasses

import pytest
import torch

from models.vpd import published
from refseg.checkpoints import conversion, native
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.predictor import Predictor


@pytest.fixture(scope="module")
def model():
    return published.model()


@pytest.fixture
def checkpoint(model, tmp_path):
    path = tmp_path / "vpd_ris_refcoco.pth"
    state = published.vpd_checkpoint(model.state_dict())
    torch.save({"model": state, "args": argparse.Namespace(lr=5e-5), "epoch": 39}, path)
    return path


@pytest.fixture
def companion(model, tmp_path):
    path = tmp_path / "clip.pth"
    torch.save(published.clip_companion(model.state_dict()), path)
    return path


@pytest.fixture
def no_cache(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


def convert(source, tmp_path, **changes):
    settings = {"family": "vpd", "variant": "debug", **changes}
    return conversion.convert(source, tmp_path / "out.safetensors", **settings)


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def test_a_published_file_and_its_companion_give_the_model(model, checkpoint, companion, tmp_path):
    done = convert(checkpoint, tmp_path, companion=companion)
    loaded, header = native.load(done.path)
    assert same(loaded.state_dict(), model.state_dict()) == []
    assert header.origin["file"] == "vpd_ris_refcoco.pth"
    reasons = set(done.report.dropped.values())
    assert any("never run" in reason for reason in reasons) and len(done.report.dropped) == 3


def test_the_companion_is_found_in_the_hub_cache(model, checkpoint, companion, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def cached(hub, file):
        asked.append((hub, file))
        return str(companion) if file == "pytorch_model.bin" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    done = convert(checkpoint, tmp_path)
    assert asked[0] == ("openai/clip-vit-large-patch14", "model.safetensors")
    assert same(native.load(done.path)[0].state_dict(), model.state_dict()) == []


def test_an_absent_companion_is_named_with_what_to_type(checkpoint, tmp_path, no_cache):
    with pytest.raises(InvalidInput) as caught:
        convert(checkpoint, tmp_path)
    told = str(caught.value)
    assert "CLIP ViT-L/14" in told and "hf download openai/clip-vit-large-patch14 model.safetensors" in told
    assert "\n" not in told and not (tmp_path / "out.safetensors").exists()


def test_another_file_as_companion_is_refused(checkpoint, tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(InvalidInput, match="is not the text tower CLIP"):
        convert(checkpoint, tmp_path, companion=tmp_path / "other.pth")


def test_a_file_for_more_tokens_is_told_by_its_shapes(tmp_path, companion):
    from refseg.models import catalog

    torch.manual_seed(0)
    longer = catalog.build("vpd", "debug", num_tokens=30)
    path = tmp_path / "p.pth"
    torch.save({"model": published.vpd_checkpoint(longer.state_dict())}, path)
    with pytest.raises(CheckpointMismatch, match=r"head\.conv1_\d\.weight"):
        convert(path, tmp_path, companion=companion)


@pytest.mark.parametrize("form", ["single file", "folder"])
def test_training_starts_from_stable_diffusion(model, tmp_path, form):
    if form == "folder":
        source = published.diffusers_folder(model.state_dict(), tmp_path / "sd15")
    else:
        source = tmp_path / "v1-5-pruned.ckpt"
        torch.save({"state_dict": published.single_file(model.state_dict())}, source)
    done = convert(source, tmp_path, part="stable-diffusion")
    found, wanted = native.load(done.path)[0].state_dict(), model.state_dict()
    own = {name for name in wanted if name.startswith(("gamma", "adapter.", "head."))}
    assert set(done.report.fresh) == own
    assert all(torch.equal(found[name], wanted[name]) for name in wanted if name not in own)
    assert torch.equal(found["gamma"], torch.full_like(found["gamma"], 1e-4))
    again = convert(source, tmp_path, part="stable-diffusion")
    assert again.header.sha256 == done.header.sha256


def test_without_start_stable_diffusion_is_refused(model, tmp_path):
    source = tmp_path / "v1-5-pruned.ckpt"
    torch.save({"state_dict": published.single_file(model.state_dict())}, source)
    with pytest.raises(CheckpointMismatch, match="gamma"):
        convert(source, tmp_path)


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="unet/diffusion_pytorch_model"):
        convert(tmp_path / "sd", tmp_path)


def test_a_converted_file_predicts(checkpoint, companion, tmp_path):
    done = convert(checkpoint, tmp_path, companion=companion)
    predictor = Predictor.load(done.path, device="cpu")
    picture = torch.randint(0, 256, (3, 50, 83), dtype=torch.uint8)
    answers = predictor(picture, ["the left dog", "a cat"])
    assert [tuple(answer.masks.shape) for answer in answers] == [(1, 50, 83)] * 2


def test_half_precision_is_stored_and_loaded_as_such(model, checkpoint, companion, tmp_path):
    done = convert(checkpoint, tmp_path, companion=companion, dtype=torch.bfloat16)
    whole, _ = native.load(done.path)
    assert whole.gamma.dtype == torch.float32
    half, _ = native.load(done.path, dtype=torch.bfloat16)
    assert half.gamma.dtype == torch.bfloat16
    assert torch.equal(half.head.conv1_1.weight, model.head.conv1_1.weight.bfloat16())


def test_the_tokenizer_of_a_diffusers_folder_is_taken(tmp_path, no_cache):
    from refseg.models import catalog

    family = catalog.family("vpd")
    text = dataclasses.replace(family.variants["debug"].text, tokenizer="openai/clip-vit-large-patch14")
    named = dataclasses.replace(family.variants["debug"], text=text)
    changed = dataclasses.replace(family, variants={**family.variants, "named": named})
    folder = published.diffusers_folder(published.model().state_dict(), tmp_path / "sd15")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refseg.models.vpd.family.FAMILY", changed)
        done = convert(folder, tmp_path, variant="named", part="stable-diffusion")
        loaded, _ = native.load(done.path)
    assert loaded.tokenize(["red"]).values[0, 1] == 513  # the second pair after 512 bytes: one token
