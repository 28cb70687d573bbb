"""Published names of real families, along the road of a user: file -> convert -> our file -> load -> the published outputs."""

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch

from parity import referformer as road
from parity.case import Case
from refseg.checkpoints import native
from refseg.checkpoints.conversion import convert, variants_that_fit
from refseg.encoders.tokenizers.tokens import byte_tokenizer
from refseg.models import catalog
from refseg.models.referformer import family
from refseg.predictor import Predictor

CASES = Path(__file__).parents[1] / "parity" / "cases" / "referformer"


@pytest.fixture(autouse=True)
def _real_families(monkeypatch):
    monkeypatch.delitem(catalog.FAMILIES, "tiny")


def case_of(name):
    path = CASES / name if (CASES / name).is_dir() else CASES / f"{name}.json"
    return Case("referformer", name, path)


@pytest.mark.parametrize(
    ("layout", "variants"),
    [
        ("resnet50", ["resnet50", "resnet50-image"]),
        ("resnet101", ["resnet101", "resnet101-image"]),
        (
            "video_swin_t_p4w7",
            ["video-swin-t", "video-swin-t-image", "video-swin-t-a2d", "video-swin-t-a2d-scratch"],
        ),
    ],
)
def test_a_published_layout_is_known_by_its_names_and_shapes(layout, variants):
    found = list(variants_that_fit(case_of(f"manifest-{layout}").shapes()))
    assert found == [("referformer", variant) for variant in variants]


@pytest.mark.parametrize(
    ("name", "is_zip"),
    [("tiny-r50-image-plain", True), ("tiny-r50-image-plain", False), ("train-a2d", False)],
)
def test_a_published_file_computes_the_published_outputs_after_conversion(
    tmp_path, monkeypatch, name, is_zip
):
    case = case_of(name)
    variants = {"case": road.config_of(case)}
    monkeypatch.setattr(family, "FAMILY", dataclasses.replace(family.FAMILY, variants=variants))
    content = {"model": case.filled(), "optimizer": {}, "epoch": 5, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "p.pth", _use_new_zipfile_serialization=is_zip)
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")
    done = convert(
        tmp_path / "p.pth",
        tmp_path / "ours.safetensors",
        family="referformer",
        variant="case",
        tokenizer=tmp_path / "tokenizer.json",
    )
    model, header = native.load(done.path)
    assert header.extra["tokenizer.json"] == byte_tokenizer()
    _, names = road.load(case, case.filled())
    monkeypatch.setattr(road, "load", lambda _case, _state: (model, names))
    road.run(case)
    predictor = Predictor(model, device="cpu")
    (answer,) = predictor(torch.zeros(3, 3, 40, 60, dtype=torch.uint8), ["dog"])
    assert answer.masks.shape == (3, 40, 60)


@pytest.mark.parametrize("name", ["scout", "referformer"])
def test_saving_and_loading_is_the_identity_for_every_family(tmp_path, name):
    model = catalog.build(name, "debug")
    native.save(tmp_path / "m.safetensors", model, family=name, variant="debug", origin={})
    loaded, _ = native.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert loaded.tokenize(["red dog"]).values.tolist() == model.tokenize(["red dog"]).values.tolist()
