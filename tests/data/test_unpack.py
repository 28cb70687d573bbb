"""Archives are unpacked into their folder and nowhere else; a hostile one leaves nothing."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data import archives
from refseg.data.archives import Bounds, unpack
from refseg.errors import InvalidInput


def zip_of(path, entries, compression=zipfile.ZIP_DEFLATED):
    """A zip of (name, content or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tar_of(path, entries, mode="w:gz"):
    """A tar of names with contents, or of whole headers."""
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(archive, tmp_path, said, **options):
    """Unpacks a hostile archive and proves that it left nothing and touched nothing beside."""
    room = tmp_path / "room"
    room.mkdir()
    (room / "other.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=said) as caught:
        unpack(archive, room / "data", **options)
    assert "\n" not in str(caught.value)
    assert everything_below(room) == ["other.txt"]
    assert (room / "other.txt").read_text() == "mine"
    assert not (tmp_path / "escaped").exists()


GOOD = [("set/a.json", b"{}"), ("set/pictures/1.jpg", b"abc"), ("readme", b"x")]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.zip", zip_of),
        ("a.tar", lambda path, entries: tar_of(path, entries, "w")),
        ("a.tar.gz", tar_of),
        ("a.tar.bz2", lambda path, entries: tar_of(path, entries, "w:bz2")),
        ("a.tar.xz", lambda path, entries: tar_of(path, entries, "w:xz")),
    ],
)
def test_an_honest_archive_is_unpacked_whole_or_by_its_inner_folder(tmp_path, name, make):
    archive = make(tmp_path / name, GOOD)
    assert unpack(archive, tmp_path / "all") == 3
    assert everything_below(tmp_path / "all") == [
        "readme",
        "set",
        "set/a.json",
        "set/pictures",
        "set/pictures/1.jpg",
    ]
    assert unpack(archive, tmp_path / "some", inner="set") == 2
    assert everything_below(tmp_path / "some") == ["a.json", "pictures", "pictures/1.jpg"]
    assert (tmp_path / "some/pictures/1.jpg").read_bytes() == b"abc"


ESCAPES = [
    "../escaped",
    "set/../../escaped",
    "/tmp/escaped",
    "//escaped",
    "..",
    "C:escaped",
    "C:/escaped",
    "..\\escaped",
    "set\\..\\..\\escaped",
    "set/\x1bescaped",
    "set/..",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leaves_the_folder_is_refused_in_a_zip(tmp_path, name):
    archive = zip_of(tmp_path / "a.zip", [("set/a", b"1"), (zipfile.ZipInfo(name), b"out")])
    refused(archive, tmp_path, "would write outside its folder")


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leaves_the_folder_is_refused_in_a_tar(tmp_path, name):
    refused(tar_of(tmp_path / "a.tar.gz", [("set/a", b"1"), (name, b"out")]), tmp_path, "would write outside")


@pytest.mark.parametrize("name", ["set/a\0../../escaped", "../escaped\0"])
def test_a_name_with_a_zero_byte_is_refused(tmp_path, name):
    info = zipfile.ZipInfo("set/plain_name")
    info.filename = name  # past the cutting that the constructor does
    archive = zip_of(tmp_path / "a.zip", [(info, b"out")])
    refused(archive, tmp_path, "would write outside its folder")


@given(name=st.text(min_size=1, max_size=12))
def test_no_name_writes_outside(tmp_path_factory, name):
    tmp_path = tmp_path_factory.mktemp("names")
    info = zipfile.ZipInfo("x")
    info.filename = name
    try:
        archive = zip_of(tmp_path / "a.zip", [(info, b"1")])
    except (UnicodeEncodeError, ValueError, struct.error):
        return
    room = tmp_path / "room" / "deep"
    room.mkdir(parents=True)
    try:
        unpack(archive, room / "data")
    except InvalidInput:
        assert everything_below(tmp_path / "room") == ["deep"]
    except OSError:  # a name that this system has no place for
        assert everything_below(tmp_path / "room") == ["deep"]
    assert all(path == "deep" or path.startswith("deep/data") for path in everything_below(tmp_path / "room"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused_in_a_tar(tmp_path, kind):
    header = tarfile.TarInfo("set/link")
    header.type, header.linkname = kind, "../../escaped"
    refused(tar_of(tmp_path / "a.tar", [("set/a", b"1"), (header, b"")], "w"), tmp_path, "a link or a device")


def test_writing_through_a_link_is_refused_with_the_link(tmp_path):
    link = tarfile.TarInfo("set")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    refused(
        tar_of(tmp_path / "a.tar", [(link, b""), ("set/escaped", b"out")], "w"),
        tmp_path,
        "a link or a device",
    )


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused_in_a_zip(tmp_path, kind):
    info = zipfile.ZipInfo("set/link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    refused(zip_of(tmp_path / "a.zip", [(info, b"/etc/passwd")]), tmp_path, "a link or a device")


def test_set_user_bits_are_not_kept(tmp_path):
    header = tarfile.TarInfo("set/program")
    header.mode = 0o6777
    unpack(tar_of(tmp_path / "a.tar", [(header, b"1")], "w"), tmp_path / "data")
    assert not (tmp_path / "data/set/program").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_more_bytes_than_the_bound_are_refused(tmp_path, make):
    archive = make(tmp_path / "a.any", [("set/zeros", bytes(5_000_000))])
    assert archive.stat().st_size < 50_000  # a bomb
    refused(archive, tmp_path, r"unpacks to more than 0.0 GB", bounds=Bounds(most_bytes=1_000_000))


def test_a_zip_that_lies_about_its_size_writes_no_more_than_it_says(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("set/zeros", bytes(3_000_000))])
    lying = path.read_bytes().replace(struct.pack("<I", 3_000_000), struct.pack("<I", 10))
    path.write_bytes(lying)
    refused(path, tmp_path, "damaged or encrypted", bounds=Bounds(most_bytes=1_000_000))


def test_more_files_than_the_bound_are_refused(tmp_path):
    archive = zip_of(tmp_path / "a.zip", [(f"set/{number}", b"") for number in range(20)])
    refused(archive, tmp_path, "more than 10 files", bounds=Bounds(most_files=10))


@pytest.mark.parametrize("second", ["set/a", "./set/a", "set//a", "set/a/b"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_there_twice_is_refused(tmp_path, second):
    refused(
        zip_of(tmp_path / "a.zip", [("set/a", b"1"), (second, b"2")]),
        tmp_path,
        "twice, or as a file and a folder",
    )


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_a_cut_off_archive_is_refused(tmp_path, make):
    path = make(tmp_path / "a.any", [("set/a", os.urandom(100_000)), ("set/b", os.urandom(100_000))])
    path.write_bytes(path.read_bytes()[:120_000])
    refused(path, tmp_path, "damaged|is no .zip or .tar")


def test_a_flipped_bit_is_found_by_the_checksum_of_the_member(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("set/a", b"A" * 1000)], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"A" * 100, b"A" * 99 + b"B", 1))
    refused(path, tmp_path, "damaged or encrypted at 'set/a'")


def test_an_encrypted_member_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("set/a", b"secret")], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the central one
    path.write_bytes(bytes(data))
    refused(path, tmp_path, "damaged or encrypted")


def test_a_header_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_HEADER", 1000)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("set/" + "long/" * 500 + "a"), io.BytesIO(b""))
    refused(path, tmp_path, "damaged|no .zip or .tar")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half", b"\x1f\x8b half"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    refused(path, tmp_path, "is no .zip or .tar archive, or is damaged|damaged or encrypted|holds no files")


def test_an_archive_without_the_folder_is_refused(tmp_path):
    refused(zip_of(tmp_path / "a.zip", GOOD), tmp_path, "holds no the folder 'other'|holds no", inner="other")


def test_a_missing_archive_is_told(tmp_path):
    refused(tmp_path / "none.zip", tmp_path, "there is no archive")


def test_written_bytes_are_told(tmp_path):
    told = []
    unpack(zip_of(tmp_path / "a.zip", GOOD), tmp_path / "data", on_bytes=told.append)
    assert sum(told) == 2 + 3 + 1
