"""Keras weight files: real HDF5 files, made in the test."""

import builtins
import sys

import h5py
import numpy as np
import pytest
import torch

from helpers.keras_files import write_keras
from refseg.checkpoints.readers import read
from refseg.errors import InvalidInput

LAYERS = {
    "input_1": {},
    "conv2d_2": {"conv2d_2/kernel": np.arange(8.0, dtype=np.float32).reshape(1, 2, 2, 2)},
    "batch_normalization_1": {
        "batch_normalization_1/gamma": np.ones(2, np.float32),
        "batch_normalization_1/beta": np.zeros(2, np.float32),
    },
    "conv2d_1": {"conv2d_1/kernel": np.ones((1, 1, 2, 3), np.float32)},
}
NAMES = [
    "conv2d_2.conv2d_2.kernel",
    "batch_normalization_1.batch_normalization_1.gamma",
    "batch_normalization_1.batch_normalization_1.beta",
    "conv2d_1.conv2d_1.kernel",
]


@pytest.mark.parametrize("is_whole_model", [False, True])
@pytest.mark.parametrize("chunks", [1, 3])
def test_tensors_come_in_the_order_of_the_file(tmp_path, is_whole_model, chunks):
    path = write_keras(tmp_path / "best_map.h5", LAYERS, is_whole_model=is_whole_model, chunks=chunks)
    state = read(path)
    assert list(state) == NAMES
    assert torch.equal(state[NAMES[0]], torch.arange(8.0).reshape(1, 2, 2, 2))


def test_the_content_decides_and_not_the_suffix(tmp_path):
    assert list(read(write_keras(tmp_path / "weights.bin", LAYERS))) == NAMES


def test_a_hdf5_file_of_something_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("images", data=np.zeros(3))
    with pytest.raises(InvalidInput, match="without the layers of a Keras model"):
        read(tmp_path / "data.h5")


def test_a_tensor_that_lies_in_another_file_is_refused(tmp_path):
    write_keras(tmp_path / "other.h5", LAYERS)
    path = write_keras(tmp_path / "m.h5", LAYERS)
    with h5py.File(path, "a") as file:
        del file["conv2d_1/conv2d_1/kernel:0"]
        file["conv2d_1/conv2d_1/kernel:0"] = h5py.ExternalLink("other.h5", "/conv2d_1/conv2d_1/kernel:0")
    with pytest.raises(InvalidInput, match="lies in another file"):
        read(path)


def test_half_a_file_is_told_as_such(tmp_path):
    path = write_keras(tmp_path / "m.h5", LAYERS)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InvalidInput, match="damaged or cut short"):
        read(path)


def test_without_h5py_the_install_line_is_told(tmp_path, monkeypatch):
    path = write_keras(tmp_path / "m.h5", LAYERS)
    real = builtins.__import__

    def without(name, *rest):
        if name == "h5py":
            raise ImportError("No module named 'h5py'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidInput, match=r"pip install 'refseg\[vlt\]'"):
        read(path)


def test_a_broken_h5py_is_not_a_broken_file(tmp_path, monkeypatch):
    path = write_keras(tmp_path / "w.h5", LAYERS)
    (tmp_path / "h5py.py").write_text("raise ValueError('numpy.dtype size changed')")
    monkeypatch.delitem(sys.modules, "h5py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match=r"h5py is installed but broken \(numpy.dtype size changed\)"):
        read(path)
