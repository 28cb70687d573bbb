"""`refseg convert` and `refseg models`, from a published file to a checkpoint that loads."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoints import tiny
from helpers.loopback import Behaviour, serving
from refseg.checkpoints import native
from refseg.models import catalog

CARD = """
[[checkpoint]]
name = "tiny-net"
variant = "debug"
trained_on = "nothing"
licence = "CC0-1.0"
companions = [{ hub = "someone/words", file = "tokenizer.json" }]
source = { repository = "https://example.org/tiny", format = "pth", url = "URL", sha256 = "SHA256" }

[[checkpoint.published]]
dataset = "Made-up"
split = "val"
metric = "oIoU"
value = 12.5
protocol = "source size"
where = "table 1"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder and cache, a published file, and no family but a fake one."""
    monkeypatch.setattr(catalog, "FAMILIES", {"tiny": "checkpoints.tiny"})
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REFSEG_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.json").write_text("words")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "words.json"))
    torch.save(
        {"model": {**tiny.published(), "net.total_ops": torch.tensor(1)}, "args": argparse.Namespace()},
        tmp_path / "p.pth",
    )
    return tmp_path


TINY = ("--family", "tiny", "--variant", "debug", "--tokenizer", "words.json")


def test_a_published_file_is_converted_and_told_name_by_name(here, refseg):
    code, out, err = refseg("convert", "p.pth", *TINY)
    assert (code, err) == (0, "")
    assert "p.safetensors: tiny debug" in out
    assert "5 renamed, 2 merged, 1 dropped on purpose, 0 left over" in out
    assert "net.left.weight + net.right.weight -> both.weight" in out
    assert "dropped 1: left by a profiler" in out and "carries tokenizer.json" in out
    model, _ = native.load(here / "p.safetensors")
    assert torch.equal(model.stages[0].weight, tiny.published()["net.conv0.weight"])


def test_the_report_as_json_lists_everything(here, refseg):
    code, out, _ = refseg(
        "convert", "p.pth", *TINY, "--out", "o/m.safetensors", "--dtype", "float16", "--json"
    )
    told = json.loads(out)
    assert code == 0 and told["path"] == "o/m.safetensors"
    assert told["dropped"] == {"net.total_ops": "left by a profiler"}
    assert told["origin"]["sha256"] == hashlib.sha256((here / "p.pth").read_bytes()).hexdigest()
    assert told["bytes"] == (here / "o" / "m.safetensors").stat().st_size


def test_a_file_that_is_there_is_replaced_only_by_force(here, refseg):
    (here / "p.safetensors").write_text("mine")
    code, _, err = refseg("convert", "p.pth", *TINY)
    assert code == 2 and "--force" in err and (here / "p.safetensors").read_text() == "mine"
    assert refseg("convert", "p.pth", *TINY, "--force")[0] == 0
    assert native.read_header(here / "p.safetensors").family == "tiny"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["convert", "none.pth", *TINY], "there is no file none.pth"),
        (["convert", "p.pth", "--family", "tyni", "--variant", "debug"], "did you mean 'tiny'"),
        (["convert", "p.pth", "--family", "tiny", "--variant", "wide"], "fits --family tiny --variant debug"),
        (["convert", "p.pth", *TINY, "--dtype", "float8"], "did you mean 'float"),
        (["convert", "p.pth", "--family", "tiny", "--variant", "debug"], "--tokenizer FILE"),
        (["convert", "p.pth", *TINY, "--out", "."], "is a folder"),
        (["convert", "p.pth", *TINY, "--out", "p.pth"], "is the file to read"),
        (["models", "get", "tiny-dbug"], "did you mean 'tiny-debug'"),
        (["models", "show", "tiny-dbug"], "did you mean 'tiny-debug'"),
        (["models", "get", "tiny-debug"], "cannot be fetched"),
        (["models", "get", "tiny-debug"], "or download it elsewhere and run: refseg convert FILE"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(here, refseg, monkeypatch, words, expected):
    monkeypatch.setattr("refseg.download._PAUSE", 0)
    code, out, err = refseg(*words)
    assert code == 2 and out == ""
    assert expected in err and err.startswith("refseg: ") and err.count("\n") == 1


def test_models_lists_families_and_checkpoints_with_results(here, refseg):
    code, out, _ = refseg("models")
    assert code == 0
    for expected in (
        "tiny",
        "debug, wide, long",
        "tiny-debug",
        "Made-up val oIoU 12.5",
        "CC0-1.0",
    ):
        assert expected in out


def test_models_as_json_can_be_read_by_a_program(here, refseg):
    _, out, _ = refseg("models", "--json")
    told = json.loads(out)
    assert told["families"] == [
        {"name": "tiny", "title": "A family for tests", "variants": ["debug", "wide", "long"]}
    ]
    (card,) = told["checkpoints"]
    assert card["name"] == "tiny-debug" and card["is_here"] is False
    assert card["published"][0]["value"] == 12.5


def test_a_checkpoint_is_fetched_shown_and_loaded(here, refseg, monkeypatch):
    content = (here / "p.pth").read_bytes()
    with serving(Behaviour(content)) as url:
        sha256 = hashlib.sha256(content).hexdigest()
        (here / "cards.toml").write_text(CARD.replace("URL", url).replace("SHA256", sha256))
        monkeypatch.setattr(tiny, "FAMILY", _with_cards(here / "cards.toml"))
        code, out, err = refseg("models", "get", "tiny-net")
    assert (code, err) == (0, "")
    path = Path(out.strip())
    assert path == here / "home" / "checkpoints" / "tiny-net.safetensors"
    assert native.load(path)[0].words == "words"
    assert "is_here: True" in refseg("models", "show", "tiny-net")[1]
    shown = json.loads(refseg("models", "show", path, "--json")[1])
    assert shown["origin"]["checkpoint"] == "tiny-net" and shown["origin"]["sha256"] == sha256


def _with_cards(path):
    import dataclasses

    return dataclasses.replace(tiny.FAMILY, cards=path)


def test_a_damaged_file_is_told_by_show(here, refseg):
    refseg("convert", "p.pth", *TINY)
    data = bytearray((here / "p.safetensors").read_bytes())
    data[-1] ^= 1
    (here / "p.safetensors").write_bytes(data)
    code, _, err = refseg("models", "show", "p.safetensors")
    assert code == 2 and "are damaged" in err


def test_help_of_both_verbs_loads_no_heavy_library():
    code = (
        "import sys; from refseg.cli import app, load_verbs; load_verbs(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    )
    source = str(Path(native.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == 0
