"""One process is the ordinary case; several agree on their means."""

import socket
import subprocess
import sys
from pathlib import Path

import torch

from refseg import distributed

TWO = """
import sys, torch
from torch import distributed as dist
from refseg import distributed
number = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=number, world_size=2)
mean = distributed.mean_over_ranks(torch.tensor(3 + 4 * number))
print(distributed.rank(), distributed.world_size(), distributed.is_first(), mean.item(), distributed.gather(f"r{number}"))
dist.destroy_process_group()
"""


def test_one_process_is_the_first_of_one_and_keeps_its_values():
    assert (distributed.rank(), distributed.world_size(), distributed.is_first()) == (0, 1, True)
    assert distributed.mean_over_ranks(torch.tensor(3)).item() == 3
    assert distributed.gather("mine") == ["mine"]


def test_two_processes_agree_on_mean_and_values(tmp_path):
    source = str(Path(__file__).parents[1] / "src")
    command = [sys.executable, "-c", TWO]
    both = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path / "meet")],
            env={"PYTHONPATH": source},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    told = [process.communicate(timeout=600)[0].strip() for process in both]
    assert told == ["0 2 True 5.0 ['r0', 'r1']", "1 2 False 5.0 ['r0', 'r1']"]


CLAIMS = """
import torch
from refseg import distributed
distributed.start(torch.device("cpu"))
number, here = distributed.rank(), torch.device("cpu")
print(distributed.any_of(number == 1, here), distributed.total(2 + number, here))
distributed.stop()
"""

# A machine of one GPU, as far as starting goes.
ONE_GPU = """
import torch
from torch import distributed as dist
from refseg import distributed
from refseg.errors import InvalidInput
join = dist.init_process_group
dist.init_process_group = lambda backend, timeout: join("gloo", timeout=timeout)
torch.cuda.device_count, torch.cuda.set_device = lambda: 1, lambda device: None
try:
    print(distributed.start(torch.device("cuda")))
except (InvalidInput, distributed.PeerFailed) as error:
    print(type(error).__name__, error)
distributed.wait()
"""


def told_by_two(code, **places_of_second):
    """What two processes print that meet as a launcher's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = str(Path(__file__).parents[1] / "src")
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": source}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=places | {"RANK": str(n), "LOCAL_RANK": str(n)} | (places_of_second if n else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    return [process.communicate(timeout=600)[0].strip() for process in both]


def test_two_processes_agree_on_claims_and_counts():
    assert told_by_two(CLAIMS) == ["True 5"] * 2


def test_more_processes_than_gpus_are_refused_by_all_and_told_by_the_first():
    first, second = told_by_two(ONE_GPU)
    assert first.startswith(
        "InvalidInput process 1 asks for GPU 1 of its machine (LOCAL_RANK, from 0), which shows it 1;"
    )
    assert second == "PeerFailed"


def test_processes_that_are_each_shown_a_gpu_of_their_own_take_it():
    assert told_by_two(ONE_GPU, LOCAL_RANK="0") == ["cuda:0"] * 2


def test_one_process_needs_no_launcher():
    device = torch.device("cpu")
    assert distributed.start(device) == device
    distributed.wait()
    assert (distributed.any_of(True, device), distributed.total(3, device)) == (True, 3)
