"""What stands beside the checkpoint when a run has ended."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import refseg
from evaluation.miniatures import place
from refseg.checkpoints import native
from refseg.cli import app, load_verbs
from refseg.data.catalog import open_dataset
from refseg.data.published import published
from refseg.errors import InvalidInput
from refseg.evaluation.model_card import MARKER
from refseg.evaluation.run import evaluate
from refseg.predictor import Predictor
from refseg.training import final_report
from refseg.training.loop import train
from refseg.training.recipe import read_recipe, run_from_values

SCENES = {"name": "scenes", "size": 64, "phrases": 4}


def trained(folder, data=SCENES, **changes):
    values = {
        "name": "toys",
        "family": "scout",
        "variant": "debug",
        "data": dict(data),
        "optimizer": {"lr": 1e-2},
        "run": {"steps": 2, "batch_size": 2, "evaluate_examples": 3},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        where = values
        for section in sections:
            where = where[section]
        where[last] = value
    train(run_from_values(values, source="toys"), folder, device=torch.device("cpu"), is_quiet=True)
    return folder


def facts_in(folder):
    return json.loads((folder / "card.json").read_text())


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n", 2)[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


def test_the_numbers_are_those_of_the_file(folder):
    (found,) = facts_in(folder)["results"]
    again = evaluate(
        Predictor.load(folder / "best.safetensors", device="cpu"),
        open_dataset("scenes", split="val", count=3, scenes={"size": 64, "phrases": 4}),
    )
    (ours,) = again.scored()
    told = found["protocols"]["source"]["scores"]
    assert {name: value for name, value in told.items() if value is not None} == {
        name: value for name, value in ours.values.items() if not math.isnan(value)
    }
    assert found["calibration"]["existence"]["ece"] == again.trust().existence.ece
    shown = {
        one["name"]: one["value"] for one in front_matter(folder)["model-index"][0]["results"][0]["metrics"]
    }
    assert shown["mIoU (source)"] == round(100 * ours.values["mIoU"], 2)


def test_the_card_is_of_the_checkpoint_that_the_folder_stands_for(folder):
    header = native.read_header(folder / "best.safetensors")
    model = facts_in(folder)["model"]
    assert (model["file"], model["sha256"]) == ("best.safetensors", header.sha256)
    assert model["bytes"] == (folder / "best.safetensors").stat().st_size


def test_the_recipe_in_the_card_is_the_runs(folder, tmp_path):
    blocks = re.findall(r"```toml\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "again.toml").write_text(blocks[0])
    assert read_recipe(tmp_path / "again.toml") == read_recipe(folder / "run.toml")


def test_losses_and_measurements_are_those_of_the_log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    training = facts_in(folder)["training"]
    assert [row["loss"] for row in training["losses"]] == [line["loss"] for line in lines if "loss" in line]
    (measured,) = [line for line in lines if "evaluation" in line]
    assert training["measurements"] == [{"step": 2, **measured["evaluation"]}]
    assert training["summary"].startswith("2 steps of 2 examples on one process (cpu, float32): ")


def test_what_the_run_rests_on_is_told(folder):
    facts = facts_in(folder)
    (data,) = facts["training"]["data"]
    assert (data["split"], data["count"], data["size"]) == ("train", 4, 64)
    assert len(data["probe"]) == len(data["sprites_hash"]) == 64
    assert facts["licence"]["id"] == "apache-2.0"
    assert facts["training"]["versions"]["refseg"] == refseg.__version__
    assert facts["training"]["versions"]["torch"] == torch.__version__


def test_the_words_of_the_card_work(folder, tmp_path, monkeypatch):
    blocks = re.findall(r"```(python|bash)\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    said = dict(blocks)
    (tmp_path / "best.safetensors").write_bytes((folder / "best.safetensors").read_bytes())
    Image.new("RGB", (80, 60), (40, 90, 30)).save(tmp_path / "photo.jpg")
    package = str(Path(refseg.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", said["python"]],
        cwd=tmp_path,
        env={"PYTHONPATH": package, "PATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert facts_in(folder)["results"][0]["example"] in done.stdout
    monkeypatch.chdir(tmp_path)
    words = re.findall(r'"[^"]*"|\S+', said["bash"])
    assert words[:2] == ["refseg", "predict"]
    load_verbs()
    done = CliRunner().invoke(app, [word.strip('"') for word in words[1:]])
    assert done.exit_code == 0, done.output
    assert any((tmp_path / "answers").iterdir())


def test_a_second_writing_keeps_what_a_person_added(folder):
    page = folder / "README.md"
    page.write_text(page.read_text() + "I trained this on a rainy day.\n")
    trained(folder)  # a finished run that is taken up again
    assert page.read_text().endswith(f"{MARKER}\nI trained this on a rainy day.\n")
    assert not list(folder.glob(".*.part*"))


def test_a_failed_evaluation_costs_the_numbers_and_nothing_else(tmp_path, monkeypatch, capsys):
    def fails(*args, **options):
        raise RuntimeError("out of memory\non the last day")

    monkeypatch.setattr(final_report, "evaluate", fails)
    trained(tmp_path)
    told = capsys.readouterr().err
    assert "the evaluation after training failed (out of memory on the last day)" in told
    assert f"{tmp_path / 'best.safetensors'} is whole" in told
    assert "--card-file" in told
    assert facts_in(tmp_path)["results"] == []
    assert "out of memory on the last day" in (tmp_path / "README.md").read_text()
    assert "model-index" not in front_matter(tmp_path)
    native.verify(tmp_path / "best.safetensors")
    native.verify(tmp_path / "last.safetensors")


def test_a_card_that_cannot_be_written_costs_the_run_nothing(tmp_path, monkeypatch, capsys):
    def fails(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(final_report.model_card, "write_card", fails)
    trained(tmp_path)
    assert "the model card could not be written (no space left on device)" in capsys.readouterr().err
    native.verify(tmp_path / "last.safetensors")


def test_nothing_is_measured_where_the_recipe_says_so(tmp_path):
    trained(tmp_path / "a", run__evaluate_examples=0)
    assert "asked for no evaluation (run.evaluate_examples)" in (tmp_path / "a" / "README.md").read_text()
    assert facts_in(tmp_path / "a")["model"]["file"] == "last.safetensors"
    trained(tmp_path / "b", run__final_protocols="none")
    assert facts_in(tmp_path / "b")["results"] == []


def test_the_final_evaluation_may_see_more_examples_than_those_on_the_way(tmp_path):
    trained(tmp_path, run__evaluate_examples=1, run__final_examples=5)
    assert facts_in(tmp_path)["results"][0]["data"]["examples"] == 5


def miniature(name, root):
    options = {"item": "object", "text": "raw"}
    return {"name": name, "root": str(place(name, root)), "phrases": 1, "options": options}


def test_all_protocols_are_measured_where_the_recipe_asks(tmp_path):
    data = miniature("grefcoco", tmp_path) | {"evaluate_split": "train"}  # whose words are known
    trained(tmp_path / "run", data, model={"max_tokens": 40}, run__final_protocols="all")
    facts = facts_in(tmp_path / "run")
    assert set(facts["results"][0]["protocols"]) == {"source", "source-generalised", "gres"}
    assert facts["licence"]["id"] == "other"
    assert facts["licence"]["rests_on"] == [
        {"what": "data grefcoco", "licence": published("grefcoco").licence}
    ]
    digest = hashlib.sha256(next(tmp_path.rglob("grefs(unc).json")).read_bytes()).hexdigest()
    assert facts["training"]["data"][0]["sources"]["grefs(unc).json"] == digest
    assert f"sha256 `{digest}`" in (tmp_path / "run" / "README.md").read_text()


def test_protocols_are_measured_by_name(tmp_path):
    trained(tmp_path / "run", miniature("refcoco", tmp_path), run__final_protocols=["vlformer", "refer"])
    assert set(facts_in(tmp_path / "run")["results"][0]["protocols"]) == {"vlformer", "refer"}


def test_an_unknown_protocol_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(InvalidInput, match=r"final_protocols|vlfromer"):
        trained(tmp_path, run__final_protocols=["vlfromer"])
    assert not list(tmp_path.iterdir())


def test_first_weights_are_told_with_their_hash(folder, tmp_path):
    trained(tmp_path, init=str(folder / "best.safetensors"))
    first = facts_in(tmp_path)["training"]["init"]
    assert first["sha256"] == native.read_header(folder / "best.safetensors").sha256
    assert first["origin"]["recipe"] == "toys"
    assert facts_in(tmp_path)["licence"]["id"] == "other"  # nobody knows under what the first weights are


def test_another_objective_has_a_card_without_masks(tmp_path):
    trained(
        tmp_path, {**SCENES, "phrases": 0}, objective="naming", model={"num_nouns": 192, "num_colours": 16}
    )
    assert "the objective naming teaches no masks" in (tmp_path / "README.md").read_text()
