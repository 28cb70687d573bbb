"""Safetensors files tensor by tensor, held to the library that defines them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from refseg.checkpoints.tensor_file import entries_of, read_into, read_one, write_one_by_one
from refseg.errors import InvalidInput

VALUES = {
    "long": torch.arange(5),
    "half": torch.randn(3, 2).half(),
    "brain": torch.randn(7).bfloat16(),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4),
    "matrix": torch.randn(4, 3),
}


def written(path, values):
    write_one_by_one(
        path, {name: lambda v=value: v for name, value in values.items()}, values, text={"format": "pt"}
    )
    return path


def test_the_library_reads_what_is_written(tmp_path):
    path = written(tmp_path / "a.safetensors", VALUES)
    found = load_file(path)
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_the_library_writes_is_read_in_place_and_cast(tmp_path):
    save_file(VALUES, tmp_path / "b.safetensors")
    targets = {name: torch.zeros_like(value) for name, value in VALUES.items()}
    targets["half"] = torch.zeros(3, 2)
    targets["matrix"] = torch.zeros(3, 4).T  # not contiguous
    read_into(tmp_path / "b.safetensors", targets)
    for name, value in VALUES.items():
        assert torch.equal(targets[name], value.to(targets[name].dtype)), name


def test_one_tensor_is_read_alone(tmp_path):
    path = written(tmp_path / "a.safetensors", VALUES)
    entry = entries_of(path)["matrix"]
    assert entry.like().shape == (4, 3) and entry.like().is_meta
    assert torch.equal(read_one(path, entry), VALUES["matrix"])


def test_a_shortened_file_is_refused(tmp_path):
    path = written(tmp_path / "a.safetensors", VALUES)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidInput, match="cut short"):
        entries_of(path)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F128"},
        {"shape": [3, 2]},
        {"shape": [-2, -2]},
        {"shape": "4"},
        {"data_offsets": [0, 12]},
        {"data_offsets": [8, 24]},
        {"data_offsets": None},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, change):
    told = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | change}
    header = json.dumps(told).encode()
    (tmp_path / "c.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(InvalidInput, match=r"damaged|cut short"):
        entries_of(tmp_path / "c.safetensors")


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    (tmp_path / "d.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InvalidInput, match="cut short"):
        entries_of(tmp_path / "d.safetensors")
