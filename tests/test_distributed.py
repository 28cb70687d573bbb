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
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert told == ["0 2 True 5.0 ['r0', 'r1']", "1 2 False 5.0 ['r0', 'r1']"]


GRADIENTS = """
import os, sys, torch
from refseg import distributed
distributed.start(torch.device("cpu"))
number = distributed.rank()
one, other, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
one.grad = torch.tensor([2.0, 4.0]) * number
if number:
    other.grad = torch.tensor([6.0, 8.0])
distributed.average_gradients([one, other, none])
distributed.wait()
print(one.grad.tolist(), other.grad.tolist(), none.grad, distributed.any_of(number == 1, one.device), distributed.total(2 + number, one.device))
distributed.stop()
"""


def test_two_processes_average_their_gradients_also_where_one_used_no_weight(tmp_path):
    source = str(Path(__file__).parents[1] / "src")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": source}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", GRADIENTS],
            env=places | {"RANK": str(n)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert told == ["[1.0, 2.0] [3.0, 4.0] None True 5"] * 2


def test_one_process_needs_no_launcher():
    device = torch.device("cpu")
    assert distributed.start(device) == device
    weight = torch.nn.Parameter(torch.zeros(1))
    distributed.average_gradients([weight])
    distributed.wait()
    assert weight.grad is None
    assert (distributed.any_of(True, device), distributed.total(3, device)) == (True, 3)
