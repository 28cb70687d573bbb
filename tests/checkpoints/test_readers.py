import argparse
import collections
import contextlib
import enum
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from refseg.checkpoints.readers import read
from refseg.errors import InvalidInput

STATE = {
    "conv.weight": torch.arange(12.0).reshape(3, 2, 2),
    "conv.bias": torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64),
    "half": torch.tensor([1.0, 2.0]).half(),
    "count": torch.tensor(41),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
}


class Colour(enum.Enum):
    RED = 1


class Settings:
    """A class that the reader cannot know."""

    def __init__(self):
        self.values, self.parent = {"a": [1]}, self


class Reducing:
    """What pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def same(found, expected=STATE):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def torch_file(path, content, *, is_zip, protocol=2):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    return path


both_forms = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


@both_forms
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "module"])
def test_state_dicts_are_found_under_the_usual_keys(tmp_path, is_zip, key):
    content = STATE if key is None else {"epoch": 3, key: STATE, "optimizer": {"state": {0: torch.ones(2)}}}
    same(read(torch_file(tmp_path / "m.pth", content, is_zip=is_zip)))


@both_forms
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arguments_and_unknown_objects_do_not_get_in_the_way(tmp_path, is_zip, protocol):
    content = {
        "args": argparse.Namespace(lr=1e-4, device=torch.device("cpu"), out=pathlib.PurePosixPath("runs/a")),
        "lr_scheduler": {"milestones": collections.Counter({6: 1}), "kind": Colour.RED},
        "settings": Settings(),
        "seen": collections.defaultdict(list, {"a": [1]}),
        "best": np.float64(3.5),
        "rng": np.random.RandomState(3).get_state(),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "numbers": {1, 2, frozenset({3})},
        "model": collections.OrderedDict(STATE),
    }
    same(read(torch_file(tmp_path / "m.pth", content, is_zip=is_zip, protocol=protocol)))


@both_forms
def test_a_state_dict_of_a_module_with_shared_and_sliced_tensors_is_read(tmp_path, is_zip):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    whole = torch.arange(20.0).reshape(4, 5)
    state = module.state_dict()  # an OrderedDict with metadata of its own
    state["a"], state["b"] = whole[1:3, 2:], whole.t()
    state["parameter"] = nn.Parameter(torch.ones(2))
    found = read(torch_file(tmp_path / "m.pth", state, is_zip=is_zip))
    same(found, {name: tensor.detach() for name, tensor in state.items()})
    assert not any(tensor.requires_grad for tensor in found.values())


def test_a_prefix_that_all_names_share_is_taken_off_and_others_stay(tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in STATE.items()}
    same(read(torch_file(tmp_path / "all.pth", wrapped, is_zip=True)))
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    same(read(torch_file(tmp_path / "mixed.pth", mixed, is_zip=True)), mixed)


def test_nested_state_dicts_are_found(tmp_path):
    same(read(torch_file(tmp_path / "m.pth", {"state_dict": {"model": STATE}}, is_zip=True)))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_detectron_pickles_of_arrays_are_read(tmp_path, protocol):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "big_endian": np.arange(4, dtype=">f4"),
        "scalar": np.array(2.5),
        "bool": np.array([True, False]),
        "words": np.array(["x", "y"]),
        "objects": np.array([None, {}], dtype=object),
    }
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True, "s": Settings()}
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    same(
        read(path),
        {
            "a": torch.tensor([[0.0, 1, 2], [3, 4, 5]]),
            "fortran": torch.tensor([[0, 1, 2], [3, 4, 5]]),
            "big_endian": torch.tensor([0.0, 1, 2, 3]),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "bool": torch.tensor([True, False]),
        },
    )


def test_plain_pickles_of_tensors_are_read(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": STATE}))
    same(read(tmp_path / "m.pkl"))


def test_safetensors_are_read_whatever_their_name(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    same(read(tmp_path / "weights.bin"))


def test_big_zip_files_are_mapped_and_not_read(tmp_path):
    path = torch_file(tmp_path / "m.pth", {"a": torch.zeros(2_000_000)}, is_zip=True)
    found = read(path)["a"]
    with open("/proc/self/maps") as file:  # noqa: PTH123 - a file of the kernel
        assert str(path) in file.read()
    assert found.sum() == 0


# Hostile files: each would leave a trace if any of its code ran.


def touch(path):
    pathlib.Path(path).touch()


def attacks(trace):
    command = f"touch {trace}"
    return {
        "os.system": Reducing(os.system, command),
        "builtins.eval": Reducing(eval, f"open({str(trace)!r}, 'w')"),
        "builtins.exec": Reducing(exec, f"open({str(trace)!r}, 'w')"),
        "builtins.open": Reducing(open, str(trace), "w"),
        "os.popen": Reducing(os.popen, command),
        "subprocess": Reducing(__import__("subprocess").check_call, ["touch", str(trace)]),
        "importlib": Reducing(__import__("importlib").import_module, "antigravity"),
        "getattr": Reducing(getattr, Reducing(__import__, "os"), "system"),
        "runpy": Reducing(__import__("runpy").run_path, str(trace)),
        "pickle.loads": Reducing(pickle.loads, pickle.dumps(Reducing(os.system, command))),
    }


@pytest.mark.parametrize("name", attacks(""))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "storage"])
def test_hostile_files_are_refused_and_nothing_runs(tmp_path, name, form):
    trace = tmp_path / "trace"
    content = {"model": STATE, "extra": attacks(trace)[name]}
    path = tmp_path / "m.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif form == "storage":  # a whole torch file inside a pickle, as tensors' storages are kept
        torch_file(tmp_path / "inner.pth", content, is_zip=True)
        inner = (tmp_path / "inner.pth").read_bytes()
        path.write_bytes(pickle.dumps({"model": Reducing(torch.storage._load_from_bytes, inner)}))
    else:
        torch_file(path, content, is_zip=form == "zip")
    with pytest.raises(InvalidInput, match=r"asks to run .*nothing was run"):
        read(path)
    assert not trace.exists()


def test_the_hostile_files_do_run_where_pickles_are_trusted(tmp_path):
    # The proof that the test above could fail.
    pickle.loads(pickle.dumps(attacks(tmp_path / "trace")["os.system"]))
    assert (tmp_path / "trace").exists()


@both_forms
def test_functions_of_unknown_modules_are_not_called(tmp_path, is_zip):
    trace = tmp_path / "trace"
    content = {"model": STATE, "extra": Reducing(touch, str(trace))}
    same(read(torch_file(tmp_path / "m.pth", content, is_zip=is_zip)))
    assert not trace.exists()


def test_a_file_cannot_change_what_later_reads_use(tmp_path):
    # BUILD on a global: sets attributes of whatever the name leads to.
    for name in (b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"builtins\ndict"):
        body = b"\x80\x02c" + name + b"\nN}X\x0c\x00\x00\x00__defaults__(K\x01K\x02ts\x86b."
        (tmp_path / "bad.pkl").write_bytes(body)
        with pytest.raises(InvalidInput, match="damaged"):
            read(tmp_path / "bad.pkl")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    same(read(torch_file(tmp_path / "good.pth", STATE, is_zip=True)))


@both_forms
def test_a_tensor_larger_than_its_data_is_refused(tmp_path, is_zip):
    class Beyond:
        def __reduce__(self):
            storage = torch.ones(3).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 0, (1_000,), (1,), False, {})

    path = torch_file(tmp_path / "m.pth", {"model": {"a": Beyond()}}, is_zip=is_zip)
    with pytest.raises(InvalidInput, match="beyond its data"):
        read(path)


# Files that are no checkpoints: one sentence each.


def sentence(path):
    with pytest.raises(InvalidInput) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "is a web page"),
        (b"\n\n  <html lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of git-lfs"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged or cut short"),
        (b"\x1f\x8b\x08" + bytes(50), "archive"),
        (b"hello, these are no weights", "is not a checkpoint"),
        (bytes(range(200, 255)), "is not a checkpoint"),
        (b'{"a": 1}', "is not a checkpoint"),
        (struct.pack("<Q", 900) + b'{"a":', "damaged or cut short"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
        (pickle.dumps([1, 2]), "holds no tensors by name"),
        (pickle.dumps({"best": 3, "args": argparse.Namespace()}), "its entries: best, args"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_sentence(tmp_path, content, expected):
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    assert expected in sentence(path)


def test_absent_files_and_folders_are_told_apart(tmp_path):
    assert "there is no file" in sentence(tmp_path / "none.pth")
    assert "is a folder" in sentence(tmp_path)


@both_forms
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_truncated_torch_files_are_told(tmp_path, is_zip, share):
    path = torch_file(tmp_path / "m.pth", {"model": STATE | {"more": torch.ones(999)}}, is_zip=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "cut short" in sentence(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pickles_and_safetensors_are_told(tmp_path, share):
    save_file(STATE, tmp_path / "m.safetensors")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"a": np.ones(99)}}))
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        assert "cut short" in sentence(path)


def test_other_zips_and_torchscript_are_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert "unpack it" in sentence(tmp_path / "photos.zip")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    assert "TorchScript" in sentence(tmp_path / "script.pt")


@both_forms
def test_a_pickled_module_asks_for_its_state_dict(tmp_path, is_zip):
    path = torch_file(tmp_path / "m.pth", nn.Linear(2, 3), is_zip=is_zip)
    assert "holds no tensors by name (it is a Linear)" in sentence(path)


changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(changes=changes, form=st.sampled_from(["zip", "legacy", "pickle", "safetensors"]))
def test_a_damaged_file_is_read_or_refused_and_never_breaks_otherwise(tmp_path_factory, changes, form):
    path = tmp_path_factory.mktemp("damaged") / "m"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": {"a": np.ones(3), "b": torch.ones(2)}, "c": Colour.RED}))
    elif form == "safetensors":
        save_file(STATE, path)
    else:
        torch_file(path, {"model": STATE, "args": argparse.Namespace(a=1)}, is_zip=form == "zip")
    content = bytearray(path.read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(InvalidInput):
        assert all(isinstance(tensor, torch.Tensor) for tensor in read(path).values())
