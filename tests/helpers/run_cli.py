"""The real command line in a process of its own, with a model whose answers are known in the place of a checkpoint.

Usage: python run_cli.py VERB ...   `slowly` in REFSEG_TEST_PACE makes each mask file take a tenth of a second.
"""

import os
import signal
import time

import refseg.media.drawing
import refseg.predictor
from helpers.seeing import SeeingModel
from refseg.cli import main


def load(name, device="auto", dtype=None):
    return refseg.predictor.Predictor(SeeingModel(), device=device, dtype=dtype, label=str(name))


def save_slowly(mask, path, save=refseg.media.drawing.save_mask):
    save(mask, path)
    time.sleep(0.1)


if __name__ == "__main__":
    # A shell without job control starts what it puts in the background deaf to Ctrl-C, test runs and their children too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    refseg.predictor.load = load
    if os.environ.get("REFSEG_TEST_PACE") == "slowly":
        refseg.media.drawing.save_mask = save_slowly
    main()
