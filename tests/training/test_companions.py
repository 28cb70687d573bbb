"""What is said when the exchange with other processes fails; `test_lost_process.py` takes real processes away."""

import pytest

from refseg import distributed
from refseg.training import heartbeat


class Silent:
    """A heartbeat that found the second of two processes gone."""

    def __init__(self, rank, size):
        pass

    def start(self, on_loss):
        pass

    def stop(self):
        pass

    def gone(self):
        return [1]


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(heartbeat, "Heartbeat", Silent)
    monkeypatch.setattr(heartbeat, "_hear_no_launcher", lambda: None)


def test_the_error_that_was_met_is_told_by_its_first_line(two, tmp_path):
    with pytest.raises(heartbeat.ProcessLost) as told, heartbeat.watch_peers(tmp_path):
        raise RuntimeError("\nNCCL error in: place.cpp:35, invalid usage\nframe #0: inside\n")
    assert str(told.value) == (
        "process 1 of 2 was lost (killed, or stopped by a mistake that it told of itself); no state was saved yet: "
        "start anew; what this process met: NCCL error in: place.cpp:35, invalid usage"
    )


def test_an_error_of_something_else_stays_what_it_is(two, tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"), heartbeat.watch_peers(tmp_path):
        raise RuntimeError("shapes differ")
