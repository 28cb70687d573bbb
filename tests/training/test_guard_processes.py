"""Of several processes all stop at a broken step, and the one that had the broken inputs keeps them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

# The third batch of the second process gives no number, whenever it is computed.
BROKEN = """
import math, os
import torch
from refseg.cli import main
from refseg.training import loop

build, seen = loop.build_objective, []

def built(family, run):
    objective = build(family, run)

    def broken(model, batch):
        terms = objective(model, batch)
        seen.append(batch.clips.pixels)
        if os.environ["RANK"] == "1" and len(seen) >= 3 and torch.equal(seen[-1], seen[2]):
            terms["dice"] = terms["dice"] * math.nan
        return terms

    return broken

loop.build_objective = built
main()
"""
SMALL = ["scout/scenes", "init=", "variant=debug", "run.steps=6", "run.batch_size=2", "schedule.warmup_steps=0",
         "run.precision=float32", "run.save_every=2", "data.workers=0", "run.evaluate_examples=0", "data.size=64"]  # fmt: skip


def started(folder, rank, port):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    command = [
        sys.executable,
        "-c",
        BROKEN,
        "train",
        *SMALL,
        "--out",
        str(folder),
        "--device",
        "cpu",
        "--quiet",
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_both_stop_and_the_one_that_had_the_batch_keeps_it(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [started(tmp_path / "run", rank, port) for rank in (0, 1)]
    told = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], told
    folder = tmp_path / "run" / "bad-step-000003"
    assert f"dice became nan at step 3; another process keeps its inputs in {folder};" in told[0][1]
    assert f"its inputs are in {folder / 'rank-1'} (the term dice" in told[1][1]
    assert [path.name for path in folder.iterdir()] == ["rank-1"]
    summary = json.loads((folder / "rank-1" / "step.json").read_text())
    # Ranks take turns: of step 3, positions 8 to 11, the second one has 9 and 11.
    assert [example["position"] for example in summary["batches"][0]["examples"]] == [9, 11]
    assert summary["batches"][0]["terms"]["dice"] == "nan"
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
