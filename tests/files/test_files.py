from pathlib import Path

import pytest

from refseg.errors import InvalidInput
from refseg.files import check_writable, whole_file, whole_folder, write_whole_text


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert (
            temporary.parent == path.parent and temporary.suffix == ".txt" and temporary.name.startswith(".")
        )
    assert path.read_text() == "half" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_fault_leaves_the_earlier_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def write():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises(fault):
        write()
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_a_text_is_written_in_utf8_with_plain_line_ends(tmp_path):
    write_whole_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_a_folder_replaces_the_earlier_one_whole(tmp_path):
    path = tmp_path / "masks"
    for names in (["1", "2"], ["2"]):
        with whole_folder(path) as temporary:
            for name in names:
                (temporary / name).touch()
    assert [p.name for p in path.iterdir()] == ["2"] and list(tmp_path.iterdir()) == [path]


def test_a_fault_leaves_the_earlier_folder(tmp_path):
    path = tmp_path / "masks"
    path.mkdir()
    (path / "1").touch()

    def write():
        with whole_folder(path) as temporary:
            (temporary / "2").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert [p.name for p in path.iterdir()] == ["1"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_a_folder_that_cannot_take_its_name_leaves_the_earlier_one(tmp_path, monkeypatch, fault):
    path = tmp_path / "masks"
    path.mkdir()
    (path / "1").touch()
    rename = Path.replace

    def replace_unless_new(source, target):
        if (source / "2").exists():
            raise fault
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", replace_unless_new)

    def write():
        with whole_folder(path) as temporary:
            (temporary / "2").touch()

    with pytest.raises(fault):
        write()
    assert [p.name for p in path.iterdir()] == ["1"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_can_be_made_is_writable_and_is_not_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="is a file; give another folder"):
        check_writable(tmp_path / "file" / "out")


def test_a_folder_that_the_system_refuses_is_told():
    if not Path("/proc/self").exists():
        pytest.skip("needs a file system that nobody may write, such as Linux's /proc")
    with pytest.raises(InvalidInput, match="/proc/refseg cannot be written"):
        check_writable(Path("/proc/refseg"))
