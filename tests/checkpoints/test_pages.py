"""Mapped files do not stay in memory."""

import sys
from pathlib import Path

import pytest
import torch

from refseg.checkpoints.memory_map import release
from refseg.checkpoints.readers import read

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
MIB = 1 << 20


def resident_of_files():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssFile:")[1].split()[0]) * 1024


@linux
def test_pages_of_a_mapped_tensor_are_given_back_and_read_again(tmp_path):
    values = torch.arange(8 * MIB, dtype=torch.float32)
    torch.save({"model": {"a.weight": values}}, tmp_path / "p.pth")
    tensor = read(tmp_path / "p.pth")["a.weight"]
    before = resident_of_files()
    assert torch.equal(tensor, values)
    touched = resident_of_files()
    assert touched - before > 20 * MIB
    release(tensor)
    assert touched - resident_of_files() > 20 * MIB
    assert torch.equal(tensor, values)


def test_ordinary_memory_is_left_alone():
    tensor = torch.arange(4 * MIB, dtype=torch.float32)
    expected = tensor.clone()
    release(tensor)
    release(tensor[5:])
    assert torch.equal(tensor, expected)


def test_tensors_without_memory_are_left_alone():
    release(torch.empty(0))
    release(torch.empty(3, device="meta"))


def test_shared_memory_is_left_alone():
    tensor = torch.arange(4 * MIB, dtype=torch.float32).share_memory_()
    release(tensor)
    assert tensor[-1] == 4 * MIB - 1
