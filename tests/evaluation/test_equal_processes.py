"""Several processes that share an evaluation out write what one does, byte by byte; one that fails or dies ends them all.

Processes are started once for all evaluations: one, two and three of them.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.miniatures import place
from refseg.checkpoints import native
from refseg.data.catalog import open_dataset
from refseg.models import catalog

TESTS = Path(__file__).parents[1]
SCENES = ["--size", "64", "--frames", "2", "--phrases", "2"]
EQUAL = {
    "scenes": ["scout", "scenes", *SCENES, "--count", "7"],  # is shared evenly by no number of processes here
    "control": ["scout", "scenes", *SCENES, "--count", "4", "--shuffle-phrases"],
    "few": ["scout", "scenes", *SCENES, "--count", "1"],  # some processes have nothing to do
    "ref-youtube-vos": ["left", "ref-youtube-vos", "--split", "valid"],
    "ref-davis17": ["left", "ref-davis17", "--split", "valid"],
}


def made_file(folder):
    """Six pictures, of which the fifth cannot be read."""
    lines = []
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 20 * number, dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "phrase": "left", "mask": [[0, 0, 4, 0, 4, 8, 0, 8]]})
    (folder / "broken.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:50])
    return folder / "broken.jsonl"


def checkpoints(folder):
    scenes = open_dataset("scenes", split="val", count=1, scenes={"size": 64})
    config = catalog.variant("scout", "debug").for_words(scenes.vocabulary)
    torch.manual_seed(0)
    # Untrained, it answers every phrase with the part of the picture that scores above its median.
    model = catalog.build("scout", replace(config, existence_threshold=0.0, threshold=0.12))
    facts = {"family": "scout", "variant": "debug", "origin": {}}
    return {name: native.save(folder / f"{name}.safetensors", model, **facts) for name in ("scout", "left")}


def jobs_of(folder, size):
    """The words of every command that `size` processes run, with files in a folder of their own."""
    out, jobs = folder / str(size), {}
    out.mkdir()
    broken = made_file(folder) if size == 1 else folder / "broken.jsonl"
    for name, (checkpoint, data, *more) in EQUAL.items():
        jobs[name] = [str(folder / f"{checkpoint}.safetensors"), data, *more, "--device", "cpu"]
        jobs[name] += ["--out", str(out / f"{name}.json"), "--rows", str(out / f"{name}.jsonl")]
        if checkpoint == "left":
            jobs[name] += ["--root", str(place(data, folder))]
            suffix = "" if data == "ref-davis17" else ".zip"
            jobs[name] += ["--submission", str(out / f"{name}-submission{suffix}")]
    if size == 2:
        jobs["broken"] = [str(folder / "left.safetensors"), str(broken), "--device", "cpu"]
        jobs["broken"] += ["--out", str(out / "broken.json")]
    if size == 3:
        jobs["killed"] = [str(folder / "scout.safetensors"), "scenes", *SCENES, "--count", "12"]
        jobs["killed"] += ["--device", "cpu", "--rows", str(out / "killed.jsonl")]
    return jobs


def command(folder):
    return [sys.executable, str(Path(__file__).with_name("equal_processes.py")), str(folder)]


def start(folder, size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    common = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            command(folder),
            env=common | (places | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    checkpoints(folder)
    (folder / "jobs.json").write_text(json.dumps({size: jobs_of(folder, size) for size in (1, 2, 3)}))
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """By number of processes, the exit code, output and messages of each."""
    ends = {}
    for size in (1, 2, 3):
        processes = start(folder, size)
        said = [process.communicate(timeout=900) for process in processes]
        ends[size] = [(p.returncode, *words) for p, words in zip(processes, said, strict=True)]
    return ends


def parts(text):
    """What was printed under each job's name."""
    pieces = [piece.split("]\n", 1) for piece in text.split("[")[1:]]
    return dict(pieces)


def files(folder):
    """Everything below a folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("size", [2, 3])
def test_results_rows_and_submissions_are_those_of_one_process(folder, told, size):
    assert told[1][0][0] == 0, told[1]
    alone, together = files(folder / "1"), files(folder / str(size))
    names = {name for name in alone if not name.startswith(("broken", "killed"))}
    assert {f"{name}{suffix}" for name in EQUAL for suffix in (".json", ".jsonl")} <= names
    assert [name for name in names if together.get(name) != alone[name]] == []


@pytest.mark.parametrize("size", [2, 3])
def test_the_first_process_alone_prints_the_table_of_one(folder, told, size):
    (first, *others), alone = told[size], parts(told[1][0][1])
    # The folder of a submission is told.
    printed = parts(first[1].replace(str(folder / str(size)), str(folder / "1")))
    assert {name: printed[name] for name in EQUAL} == {name: alone[name] for name in EQUAL}
    for _, printed, _ in others:
        assert not any(parts(printed).values())


def test_what_is_compared_are_no_empty_answers(folder, told):
    """Equal results of empty answers would say nothing."""
    result = json.loads((folder / "1" / "scenes.json").read_text())
    assert result["data"]["examples"] == 7
    assert result["scores"]["all"]["mIoU"] > 0


def test_one_process_that_fails_ends_all_with_one_sentence(folder, told):
    assert [code for code, _, _ in told[2]] == [2, 2]
    messages = "".join(message for _, _, message in told[2]).splitlines()
    assert [line for line in messages if line.startswith("refseg: ")] == [
        line for line in messages if "4.png" in line
    ]
    assert sum("4.png" in line for line in messages) == 1
    assert "Traceback" not in "".join(messages)
    assert not (folder / "2" / "broken.json").exists()


def test_a_killed_process_ends_all_and_the_evaluation_goes_on_where_it_stopped(folder, told):
    assert [code for code, _, _ in told[3]] == [2, 2, -9]
    messages = "".join(message for _, _, message in told[3])
    assert messages.count("refseg: ") == 1
    assert "another process of this evaluation was killed" in messages
    rows = folder / "3" / "killed.jsonl"
    before = rows.read_text().splitlines()
    assert 1 < len(before) < 13
    jobs = json.loads((folder / "jobs.json").read_text())
    words = [*jobs["3"]["killed"], "--resume"]
    (folder / "jobs.json").write_text(json.dumps({"1": {"resumed": words}, "2": {"again": []}}))
    (ended,) = start(folder, 1)
    ended.communicate(timeout=900)
    after = rows.read_text().splitlines()
    assert ended.returncode == 0
    assert after[: len(before)] == before
    assert [json.loads(line)["index"] for line in after[1:]] == list(range(12))
