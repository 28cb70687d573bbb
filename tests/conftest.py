"""Options and fixtures of every test."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A slow or busy machine is no fault of the code.
settings.register_profile("refseg", deadline=None)
settings.load_profile("refseg")

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
