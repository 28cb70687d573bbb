"""Runs of training one after the other in the processes of one launch, so that tests pay for the launch once.

    torchrun --nproc-per-node 2 tests/training/together.py jobs.json

A job is {"recipe": PATH, "overrides": [...], "folder": PATH, "stop_after": STEP}; the last one leaves the run as an
interruption after that step would. Processes drop out different numbers, as they should; here nothing is dropped, so
that several compute what one does.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional

from refseg import distributed
from refseg.training import loop
from refseg.training.recipe import read_recipe
from refseg.training.signals import Interrupted


@contextlib.contextmanager
def without_dropout():
    plain = functional.scaled_dot_product_attention

    def attention(*given, dropout_p=0.0, **named):
        return plain(*given, **named)

    with (
        mock.patch.object(functional, "scaled_dot_product_attention", attention),
        mock.patch.object(torch.nn.Dropout, "forward", lambda self, values: values),
        mock.patch.object(functional, "dropout", lambda values, *given, **named: values),
    ):
        yield


def run_job(job, device="cpu"):
    """Trains as the job says; what a user would read as a refusal is returned."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    run = read_recipe(Path(job["recipe"]), job.get("overrides", []))
    keep = loop.log_and_save

    def keep_and_stop(training, place, interruption):
        if training.step == job.get("stop_after"):
            interruption.number = 15
        keep(training, place, interruption)

    with without_dropout(), mock.patch.object(loop, "log_and_save", keep_and_stop):
        try:
            loop.train(run, folder, device=torch.device(device))
        except Interrupted:
            assert "stop_after" in job
        except ValueError as error:
            return str(error)
        except distributed.PeerFailed:
            return "refused"
    return ""


def main():
    torch.set_num_threads(1)
    device = distributed.start(torch.device(os.environ.get("TOGETHER_DEVICE", "cpu")))
    for job in json.loads(Path(sys.argv[1]).read_text()):
        refusal = run_job(job, device)
        if "says" in job:
            Path(f"{job['says']}.{distributed.rank()}").write_text(refusal)
        else:
            assert not refusal, refusal
    distributed.stop()


if __name__ == "__main__":
    main()
