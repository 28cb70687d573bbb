"""A disk that becomes full ends a run with a sentence; what was saved stays whole, and with room the run goes on exactly."""

import re
import subprocess

import pytest

from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.training import checkpointing
from refseg.training.checkpointing import save_state
from refseg.training.run_folder import STATE_NAME, saved_step
from training.test_kill import logged, must_be_equal, train

RECIPE = """
family = "scout"
variant = "debug"
objective = "naming"
model = {num_nouns = 192, num_colours = 16}
seed = 3
[data]
name = "scenes"
phrases = 0
[optimizer]
lr = 3e-3
[run]
steps = 14
batch_size = 1
ema = 0.9
evaluate_every = 4
evaluate_examples = 2
save_every = %d
log_every = 1
final_protocols = "none"
"""

# The disk becomes full just before the run writes something: `moment` is where, `room` the bytes that are left.
FILLING = """
import os, shutil
from refseg.checkpoints import native
from refseg.training import checkpointing, log, state
from refseg.training.run_folder import saved_step

def fill(room):
    folder = os.environ["DISK"]
    with open(folder + "/filler", "wb", buffering=0) as file:
        while (free := shutil.disk_usage(folder).free) > room:
            file.write(bytes(min(1 << 16, free - room)))

def before(module, name, is_now):
    ordinary = getattr(module, name)
    def filled(*given, **named):
        if is_now(*given):
            fill(room)
        return ordinary(*given, **named)
    setattr(module, name, filled)

moment, step, room = {moment!r}, {step}, {room}
if moment == "state":
    before(checkpointing, "save_state", lambda folder, values: values["step"] == step)
elif moment == "log":
    before(log.Log, "step", lambda log, at, *_: at == step)
elif moment == "recipe":
    before(state, "write_durable_text", lambda path, text: path.name == "run.toml")
else:
    is_due = lambda path, *_: path.name == moment and saved_step(path.parent) >= step
    before(native, "save", is_due)
"""


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount the small disk that this test fills")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def filled(server, disk, moment, step=0, room=0):
    """The sentence with which a run ends that finds the disk full."""
    code = FILLING.format(moment=moment, step=step, room=room)
    ended, out, err = train(server, disk / "run", code=code, told=disk.parent, DISK=str(disk)).end()
    assert ended == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert not list((disk / "run").glob(".*"))  # nothing half written stays
    (disk / "filler").unlink()
    return err.splitlines()[-1]


def begin(parent, save_every=3):
    parent.mkdir(exist_ok=True)
    (parent / "recipe.toml").write_text(RECIPE % save_every)
    return parent / "run"


def test_a_full_disk_stops_the_run_and_with_room_it_goes_on_exactly(tmp_path, disk, server):
    whole = begin(tmp_path / "whole")
    assert train(server, whole).end()[0] == 0
    folder = begin(disk)
    told = filled(server, disk, "recipe")
    assert told == (
        f"refseg: the disk is full, writing {folder / 'run.toml'}; free some space, or write to another folder"
    )
    assert not list(folder.iterdir())
    told = filled(server, disk, "state", step=6, room=100_000)
    assert told.startswith(
        f"refseg: the state of the run cannot be written to {folder / STATE_NAME}: No space left"
    )
    assert "the state of step 4 stays; make room and go on with --resume" in told
    assert native.verify(folder / "last.safetensors").origin["step"] == "4"
    told = filled(server, disk, "last.safetensors", step=6, room=10_000)
    assert told.startswith(f"refseg: cannot write {folder / 'last.safetensors'}: No space left on device")
    assert native.verify(folder / "last.safetensors").origin["step"] == "4"
    assert saved_step(folder) == 6
    told = filled(server, disk, "best.safetensors", step=8, room=10_000)
    assert told.startswith(f"refseg: cannot write {folder / 'best.safetensors'}: No space left on device")
    assert native.verify(folder / "best.safetensors").origin["step"] == "4"
    assert train(server, folder).end()[0] == 0
    must_be_equal(folder, whole)


def test_a_log_that_cannot_be_written_stops_the_run(tmp_path, disk, server):
    folder = begin(disk, save_every=2)
    told = filled(server, disk, "log", step=3)
    assert "No space left on device" in told
    assert "make room and go on with --resume" in told
    assert train(server, folder).end()[0] == 0
    assert [line["step"] for line in logged(folder) if "loss" in line] == list(range(1, 15))


def test_a_run_that_has_no_room_to_save_does_not_begin(tmp_path, server):
    code = "from refseg.training import checkpointing\ncheckpointing.free_disk = lambda folder: {}\n"
    folder = begin(tmp_path)
    ended, _, err = train(server, folder, code=code.format(100_000)).end()
    assert ended == 2, err
    told = re.search(
        r"has room for 0\.1 MB, and saving this run takes (\d+\.\d) MB; make room", err.splitlines()[-1]
    )
    assert told, err
    assert not list(folder.iterdir())
    needed = float(told[1]) * 1e6
    ended, _, err = train(server, folder, code=code.format(int(1.2 * needed))).end()
    assert ended == 0, err
    assert "more may be needed before the run ends" in err
    written = sum((folder / name).stat().st_size for name in ("state.pt", "last.safetensors"))
    assert written == pytest.approx(needed, rel=0.2)  # names and headers come on top of the numbers


def test_a_sentence_of_the_system_is_found_behind_that_of_a_library(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 3})

    def full(values, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos") from None

    monkeypatch.setattr(checkpointing.torch, "save", full)
    with pytest.raises(InvalidInput, match="No space left on device; the state of step 3 stays"):
        save_state(tmp_path, {"step": 4})
    assert saved_step(tmp_path) == 3
