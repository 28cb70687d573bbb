"""Options and fixtures of every test."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The suite draws the same examples every time; `make fuzz` draws others. A slow or busy machine is no fault of the code.
settings.register_profile("refseg", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, derandomize=False)
settings.load_profile(os.environ.get("REFSEG_HYPOTHESIS", "refseg"))

# Two workers on two cores: each computes on one, and so do the processes that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--parity-root",
        action="append",
        metavar="DIR",
        help="a folder of parity cases, family/case/manifest.json; may be given several times "
        "(default: ../shared/parity beside the repository)",
    )
    parser.addoption(
        "--record",
        action="store_true",
        help="write the records of tests/records instead of comparing with them",
    )


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
