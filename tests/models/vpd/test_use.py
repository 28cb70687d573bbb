"""VPD as people use it: converted, asked, measured by its published protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.miniatures import opened
from models.vpd import published
from refseg.checkpoints import zoo
from refseg.errors import InvalidInput
from refseg.evaluation.prepare import EvaluationRequest, choose_protocols
from refseg.evaluation.run import evaluate
from refseg.evaluation.table import result_table
from refseg.metrics.protocols import VPD
from refseg.metrics.scores import Pixels, overlap_scores
from refseg.predictor import Predictor

SOURCE = Path(__file__).parents[3] / "src"


def command(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_CACHE": str(folder / "no-cache")}
    return subprocess.run(
        [sys.executable, "-m", "refseg", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_published_file_is_converted_and_asked_from_the_command_line(tmp_path):
    state = published.model().state_dict()
    torch.save({"model": published.vpd_checkpoint(state)}, tmp_path / "vpd_ris_refcoco.pth")
    torch.save(published.clip_companion(state), tmp_path / "clip.pth")
    names = ("--family", "vpd", "--variant", "debug")
    refused = command(tmp_path, "convert", "vpd_ris_refcoco.pth", *names)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "hf download openai/clip-vit-large-patch14 model.safetensors" in refused.stderr
    done = command(tmp_path, "convert", "vpd_ris_refcoco.pth", *names, "--companion", "clip.pth")
    assert done.returncode == 0, done.stderr
    Image.new("RGB", (83, 50), (200, 30, 40)).save(tmp_path / "photo.png")
    asked = command(
        tmp_path,
        "predict",
        "vpd_ris_refcoco.safetensors",
        "photo.png",
        "the left dog",
        "--json",
        "--device",
        "cpu",
    )
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert told["phrase"] == "the left dog"
    assert Image.open(tmp_path / "refseg-out" / told["mask"]).size == (83, 50)


def test_evaluation_prints_ours_and_the_published_protocol(tmp_path):
    dataset = opened("refcoco", tmp_path)
    chosen = choose_protocols(EvaluationRequest(), dataset, "vpd")
    assert VPD in chosen and len(chosen) == 2
    predictor = Predictor(published.model(), device="cpu")
    result = evaluate(predictor, dataset, protocols=chosen)
    assert "vpd" in result_table(result)
    scored = {one.protocol.name: one.values for one in result.scored()}
    dataset = dataset.with_options(masks="exactly-one", text="sent")
    rows = []
    for index in range(len(dataset)):
        example = dataset[index]
        clip = predictor.encode(example.frames)
        answers = predictor.segment(clip, example.phrases, at="canvas")
        for answer, target in zip(answers, example.masks, strict=True):
            small = Image.fromarray(target[0].numpy()).resize((64, 64), Image.Resampling.NEAREST)
            wanted = torch.from_numpy(np.array(small))
            got = answer.masks[0]
            rows.append(Pixels(int((got & wanted).sum()), int(got.sum()), int(wanted.sum())))
    assert scored["vpd"]["oIoU"] == pytest.approx(overlap_scores(rows, VPD)["oIoU"])


def test_every_card_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path))
    for name in ("vpd-refcoco", "vpd-refcoco+", "vpd-refcocog"):
        assert len(zoo.find(name).published) == 7
        with pytest.raises(InvalidInput, match="refseg models get vpd-ref"):
            zoo.resolve(name)
