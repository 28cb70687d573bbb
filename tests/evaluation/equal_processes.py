"""Evaluations by the real command line, one after the other in one process or as one of several; see test_equal_processes.py.

    python equal_processes.py FOLDER    (with the variables that torchrun sets, where there are several)

FOLDER/jobs.json names the words of each command. Clocks stand still and the machine has no name, so that all that is written
depends on the answers alone. In "killed" the last process is killed at its second example.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import refseg.predictor
from evaluation.miniatures import LeftModel
from refseg.cli import main
from refseg.evaluation import machine, run

SIZE, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
plain_load = refseg.predictor.load


def load(name, device="auto", dtype=None):
    if Path(name).stem == "left":
        return refseg.predictor.Predictor(LeftModel(), device=device, dtype=dtype, label=str(name))
    return plain_load(name, device=device, dtype=dtype)


def stopped_clocks():
    time.perf_counter = lambda: 0.0
    machine.this_machine = lambda device: machine.Machine(
        "cpu", "", 1, 1, 0, "", "", torch="", refseg="", date="", load=None
    )
    refseg.predictor.load = load


def killed_at_the_second_example(task, index, example=run._Task.example, seen=[]):  # noqa: B006
    seen.append(index)
    if RANK == SIZE - 1 and len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return example(task, index)


if __name__ == "__main__":
    stopped_clocks()
    folder = Path(sys.argv[1])
    for name, words in json.loads((folder / "jobs.json").read_text())[str(SIZE)].items():
        print(f"[{name}]", flush=True)
        if name == "killed":
            run._Task.example = killed_at_the_second_example
        sys.argv = ["refseg", "evaluate", *words]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
