"""One process is the ordinary case; several agree on their means."""

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
