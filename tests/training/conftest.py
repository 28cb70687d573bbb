"""What tests of whole runs share."""

import pytest

from training.forks import ForkServer


@pytest.fixture(scope="session")
def server():
    """Starts runs of `refseg` in milliseconds; see forks.py."""
    with ForkServer() as server:
        yield server
