import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
from pathlib import Path

import pytest

import refseg
from helpers.loopback import Behaviour, serving
from refseg import download as module
from refseg.download import download
from refseg.errors import InvalidInput

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0)
    monkeypatch.setattr(module, "_CHUNK", 1000)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("has_length", [True, False])
def test_a_whole_file_arrives_and_nothing_else(tmp_path, has_length):
    seen = []
    with serving(Behaviour(CONTENT, has_length=has_length)) as url:
        found = download(
            url, tmp_path / "a" / "f", sha256=SHA256, progress=lambda done, total: seen.append((done, total))
        )
    assert found == SHA256 and (tmp_path / "a" / "f").read_bytes() == CONTENT
    assert names(tmp_path / "a") == ["f"]
    assert seen[0][0] == 0 and seen[-1] == (len(CONTENT), len(CONTENT) if has_length else None)


def test_a_broken_connection_is_taken_up_where_it_stopped(tmp_path):
    server = Behaviour(CONTENT, breaks_after=[3000, 2000])
    with serving(server) as url:
        download(url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-", "bytes=5000-"]


def test_a_download_that_was_given_up_is_resumed_by_the_next_call(tmp_path):
    server = Behaviour(CONTENT, breaks_after=[1000] * 4)
    with serving(server) as url:
        with pytest.raises(InvalidInput, match="4000 bytes are kept, run it again to go on"):
            download(url, tmp_path / "f", sha256=SHA256)
        assert not (tmp_path / "f").exists()
        download(url, tmp_path / "f", sha256=SHA256)
    assert server.asked[-1] == "bytes=4000-" and (tmp_path / "f").read_bytes() == CONTENT


def test_without_ranges_a_broken_download_begins_again(tmp_path):
    server = Behaviour(CONTENT, knows_ranges=False, breaks_after=[3000])
    with serving(server) as url:
        download(url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT and len(server.asked) == 2


def test_a_file_that_changed_on_the_server_begins_again(tmp_path):
    server = Behaviour(b"old" * 2000, breaks_after=[1000] * 4)
    with serving(server) as url:
        with pytest.raises(InvalidInput):
            download(url, tmp_path / "f")
        server.content, server.etag = CONTENT, '"two"'
        assert download(url, tmp_path / "f") == SHA256


def test_a_part_that_nobody_vouches_for_is_not_built_upon(tmp_path):
    server = Behaviour(CONTENT, etag=None, breaks_after=[1000])
    with serving(server) as url:
        assert download(url, tmp_path / "f") == SHA256
    assert server.asked == [None, None]


def test_a_part_that_is_whole_already_is_only_checked(tmp_path):
    (tmp_path / ".f.part").write_bytes(CONTENT)
    with serving(Behaviour(CONTENT)) as url:
        assert download(url, tmp_path / "f", sha256=SHA256) == SHA256
    assert names(tmp_path) == ["f"]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / ".f.part").write_bytes(CONTENT + b"more")
    with serving(Behaviour(CONTENT)) as url:
        assert download(url, tmp_path / "f", sha256=SHA256) == SHA256


def test_an_answer_for_another_range_is_not_put_into_the_file(tmp_path):
    server = Behaviour(CONTENT, breaks_after=[1000], wrong_start=True)
    with serving(server) as url:
        assert download(url, tmp_path / "f", sha256=SHA256) == SHA256
    assert server.asked == [None, "bytes=1000-", None]


def test_a_wrong_checksum_keeps_nothing_and_tells_both(tmp_path):
    with serving(Behaviour(CONTENT)) as url, pytest.raises(InvalidInput, match=f"{SHA256}.*{OTHER}"):
        download(url, tmp_path / "f", sha256=OTHER)
    assert names(tmp_path) == []


def test_an_older_file_stays_when_the_new_one_is_wrong(tmp_path):
    (tmp_path / "f").write_bytes(b"older")
    with serving(Behaviour(CONTENT)) as url, pytest.raises(InvalidInput):
        download(url, tmp_path / "f", sha256=OTHER)
    assert (tmp_path / "f").read_bytes() == b"older"


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4)])
def test_a_refusal_is_told_and_only_passing_ones_are_tried_again(tmp_path, status, requests):
    server = Behaviour(CONTENT, statuses=[status] * 9)
    with serving(server) as url, pytest.raises(InvalidInput, match=f"the server says {status}"):
        download(url, tmp_path / "f")
    assert len(server.asked) == requests and names(tmp_path) == []


def test_a_server_that_was_busy_for_a_moment_is_no_failure(tmp_path):
    with serving(Behaviour(CONTENT, statuses=[503])) as url:
        assert download(url, tmp_path / "f") == SHA256


def test_a_web_page_instead_of_a_file_is_told(tmp_path):
    server = Behaviour(b"<html>", content_type="text/html; charset=utf-8")
    with serving(server) as url, pytest.raises(InvalidInput, match="answered with a web page"):
        download(url, tmp_path / "f")
    assert names(tmp_path) == []


def test_nobody_at_the_address_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be fetched"):
        download("http://127.0.0.1:9/f", tmp_path / "f")


def test_a_machine_without_a_network_is_told(tmp_path, monkeypatch):
    def unresolved(*_args, **_more):
        raise urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    monkeypatch.setattr(module.urllib.request, "urlopen", unresolved)
    monkeypatch.setattr(module, "_PAUSE", 0)
    with pytest.raises(InvalidInput, match="perhaps for want of a network"):
        download("http://nowhere.invalid/f", tmp_path / "f")


def test_too_little_room_is_told_before_a_byte_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with serving(Behaviour(CONTENT)) as url, pytest.raises(InvalidInput, match="has room for 0 MB"):
        download(url, tmp_path / "f")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_keeps_the_part_and_says_so(tmp_path, monkeypatch):
    real = Path.open

    def full(path, mode="r", *rest, **named):
        file = real(path, mode, *rest, **named)
        if path.name.endswith(".part") and mode == "wb":
            write, left = file.write, [3]

            def limited(data):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(data)

            file = _Limited(file, limited)
        return file

    monkeypatch.setattr(Path, "open", full)
    server = Behaviour(CONTENT)
    with serving(server) as url:
        with pytest.raises(InvalidInput, match="No space left on device; make room and run it again"):
            download(url, tmp_path / "f", sha256=SHA256)
        assert not (tmp_path / "f").exists()
        monkeypatch.undo()
        monkeypatch.setattr(module, "_CHUNK", 1000)
        download(url, tmp_path / "f", sha256=SHA256)
    assert server.asked == [None, "bytes=3000-"] and (tmp_path / "f").read_bytes() == CONTENT


class _Limited:
    def __init__(self, file, write):
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with serving(Behaviour(CONTENT)) as url, pytest.raises(InvalidInput, match="cannot write"):
        download(url, tmp_path / "file" / "f")


def test_two_downloads_of_one_file_do_not_meet(tmp_path):
    go_on = threading.Event()
    server = Behaviour(CONTENT, breaks_after=[2000], pause=go_on)
    with serving(server) as url:
        first = threading.Thread(target=download, args=(url, tmp_path / "f"), kwargs={"sha256": SHA256})
        first.start()
        while not (tmp_path / ".f.part").exists():
            pass
        with pytest.raises(InvalidInput, match="another process"):
            download(url, tmp_path / "f", sha256=SHA256)
        go_on.set()
        first.join()
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file_under_the_final_name_and_is_resumed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from refseg import download as d; d._CHUNK = 1000\n"
        "d.download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], progress=lambda n, t: print(n, flush=True))"
    )
    server = Behaviour(CONTENT, breaks_after=[9500], pause=threading.Event())
    with serving(server) as url:
        child = subprocess.Popen(
            [sys.executable, "-c", code, url, str(tmp_path / "f"), SHA256],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(refseg.__file__).parents[1])},
        )
        while child.stdout.readline().strip() != b"9000":
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        server.pause.set()
        assert not (tmp_path / "f").exists() and (tmp_path / ".f.part").exists()
        download(url, tmp_path / "f", sha256=SHA256)
    assert server.asked[-1] is not None and (tmp_path / "f").read_bytes() == CONTENT
