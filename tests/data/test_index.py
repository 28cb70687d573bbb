"""The index: built once, by whoever comes first, and again when its sources change."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refseg.data.formats import index
from refseg.data.formats.index import Columns, Table, open_index, write_columns
from refseg.errors import InvalidInput

PACKAGE = Path(index.__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data" / "source.json"
    path.parent.mkdir()
    path.write_text("three")
    return path


def opened(source, built):
    def build():
        built.append(source.read_text())
        return Table({"word": source.read_text()}, {"n": np.arange(5)}, {"line": ["a", "", "é"]})

    return open_index(source.parent / ".source.refseg-index", [source], build)


def test_an_index_is_built_once(source):
    built = []
    for _ in range(3):
        found = opened(source, built)
    assert built == ["three"]
    assert found.facts["word"] == "three"
    assert found.array("n").tolist() == [0, 1, 2, 3, 4]
    assert [found.texts("line")[n] for n in range(3)] == ["a", "", "é"]
    assert (source.parent / ".source.refseg-index").is_file()


def test_a_changed_source_is_read_again_even_with_its_old_size_and_time(source):
    built = []
    opened(source, built)
    before = source.stat()
    source.write_text("seven")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened(source, built).facts["word"] == "seven"
    assert built == ["three", "seven"]


def test_a_copied_folder_keeps_its_index(source, tmp_path):
    built = []
    opened(source, built)
    os.utime(source, ns=(0, 0))
    assert opened(source, built).facts["word"] == "three"
    assert built == ["three"]


@pytest.mark.parametrize("damage", [b"", b"refsegT1", b"x" * 400, b"refsegT1" + b"\xff" * 8, None])
def test_a_damaged_index_is_built_again(source, damage):
    built = []
    opened(source, built)
    place = source.parent / ".source.refseg-index"
    place.write_bytes(place.read_bytes()[:-70] if damage is None else damage)
    assert opened(source, built).array("n").tolist() == [0, 1, 2, 3, 4]
    assert built == ["three", "three"]


def test_where_the_folder_cannot_be_written_the_cache_is_used(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = index.write_columns

    def refuse(path, *rest):
        if path.parent == source.parent:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *rest)

    monkeypatch.setattr(index, "write_columns", refuse)
    built = []
    for _ in range(2):
        assert opened(source, built).facts["word"] == "three"
    assert built == ["three"]
    assert list((tmp_path / "cache" / "refseg" / "indexes").iterdir())
    assert [path.name for path in source.parent.iterdir()] == ["source.json"]


def test_where_nothing_can_be_written_it_is_told(source, monkeypatch):
    def refuse(path, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index, "write_columns", refuse)
    with pytest.raises(InvalidInput, match="can be written neither beside it nor to"):
        opened(source, [])


def test_a_source_that_is_missing_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="there is no file"):
        open_index(tmp_path / ".i", [tmp_path / "gone.json"], lambda: Table({}, {}, {}))


def test_a_source_that_changes_while_it_is_read_is_told(source):
    def build():
        source.write_text("changed")
        return Table({}, {}, {})

    with pytest.raises(InvalidInput, match="was changed while it was read"):
        open_index(source.parent / ".i", [source], build)


def _build_slowly(source, start, results):
    start.wait()
    built = []

    def build():
        time.sleep(0.2)
        built.append(1)
        return Table({"word": source.read_text()}, {"n": np.arange(1000)}, {})

    found = open_index(source.parent / ".source.refseg-index", [source], build)
    results.put((found.facts["word"], int(found.array("n").sum()), len(built)))


def test_several_processes_may_build_at_once(source):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_build_slowly, args=(source, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    answers = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    assert {answer[:2] for answer in answers} == {("three", 499_500)}
    assert sum(answer[2] for answer in answers) >= 2  # they did build at once
    assert sorted(path.name for path in source.parent.iterdir()) == [".source.refseg-index", "source.json"]


_KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from refseg.data.formats import index

source, calls, real = Path(sys.argv[1]), [], index._aligned

def slow(offset):
    calls.append(offset)
    if len(calls) == 5:  # two arrays laid out, the header written, the first array written
        print("half", flush=True)
        time.sleep(60)
    return real(offset)

def build():
    return index.Table({"word": "half"}, {"a": np.arange(100_000), "b": np.arange(100_000)}, {})

index._aligned = slow
index.open_index(source.parent / ".source.refseg-index", [source], build)
"""


def test_a_process_killed_while_it_builds_leaves_nothing_that_is_read(source):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    worker = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(source)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert worker.stdout.readline() == "half\n"
    left = list(source.parent.glob("*.part*"))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert left and left[0].stat().st_size > 0, "it was killed before it wrote"
    assert not (source.parent / ".source.refseg-index").exists()
    built = []
    assert opened(source, built).facts["word"] == "three"
    assert built == ["three"]
    # What was left is swept away when it is old enough to belong to nobody.
    os.utime(left[0], (0, 0))
    source.write_text("changed")
    opened(source, built)
    assert not left[0].exists()


def test_columns_travel_by_their_path_and_notice_another_file(tmp_path):
    path = tmp_path / "table"
    write_columns(path, {"key": "1"}, {"n": np.arange(3)}, {})
    packed = pickle.dumps(Columns(path))
    assert len(packed) < 1000
    assert pickle.loads(packed).array("n").tolist() == [0, 1, 2]
    kept = Columns(path)
    write_columns(path, {"key": "2"}, {"n": np.arange(4)}, {})
    assert kept.array("n").tolist() == [0, 1, 2]
    with pytest.raises(InvalidInput, match="open the data set again"):
        pickle.loads(packed)


def test_columns_cannot_be_written_to(tmp_path):
    write_columns(tmp_path / "table", {}, {"n": np.arange(3), "none": np.empty((0, 2))}, {"t": []})
    columns = Columns(tmp_path / "table")
    with pytest.raises(ValueError, match="read-only"):
        columns.array("n")[0] = 1
    assert columns.array("none").shape == (0, 2)
    assert len(columns.texts("t")) == 0
