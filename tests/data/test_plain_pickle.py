"""Pickles of plain data, and those that pretend to be."""

import os
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.formats.plain_pickle import load_plain_pickle
from refseg.errors import InvalidInput

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles")


def read_or_refused(folder, data):
    """Refusals name the file; nothing else is raised."""
    try:
        return read(folder, data)
    except InvalidInput as error:
        return str(error).index("refs(unc).p")


def read(folder, data):
    path = folder / "refs(unc).p"
    path.write_bytes(data)
    return load_plain_pickle(path)


@given(plain, st.integers(0, 5))
def test_plain_data_of_every_protocol_comes_back(folder, value, protocol):
    assert read(folder, pickle.dumps(value, protocol=protocol)) == value


def test_byte_strings_of_python_2_become_text(folder):
    # What cPickle of Python 2 wrote for [{'sent': 'a man', 'n': 3L}] in protocol 2 and in protocol 0.
    assert read(folder, b"\x80\x02]q\x01}q\x02(U\x04sentq\x03U\x05a manq\x04U\x01nq\x05\x8a\x01\x03ua.") == [
        {"sent": "a man", "n": 3}
    ]
    assert read(folder, b"(lp1\n(dp2\nS'sent'\np3\nS'a man'\np4\nsS'n'\np5\nL3L\nsa.") == [
        {"sent": "a man", "n": 3}
    ]


def test_byte_strings_are_utf_8_or_else_latin_1(folder):
    assert read(folder, b"\x80\x02U\x05caf\xc3\xa9.") == "café"
    assert read(folder, b"\x80\x02U\x04caf\xe9.") == "café"


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_something_is_refused_and_nothing_runs(folder, protocol):
    bomb = Bomb()
    bomb.place = str(folder / "broken-in")
    with pytest.raises(InvalidInput, match=r"is a pickle that (names a class|calls).*Nothing was run"):
        read(folder, pickle.dumps([{"ref_id": bomb}], protocol=protocol))
    assert not (folder / "broken-in").exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(complex(1, 2)),
        pickle.dumps(print),
        b"(S'x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'x'\no.",  # OBJ
        b"Pid\n.",  # PERSID
        b"S'x'\nQ.",  # BINPERSID
        b"\x80\x02\x82\x01.",  # EXT1
        b"]}b.",  # BUILD
    ],
)
def test_every_way_to_name_something_is_refused(folder, data):
    with pytest.raises(InvalidInput, match="do not use this file"):
        read(folder, data)


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # memory for two thousand million places
        b"]p99999999999\n.",
        b"]p-1\n.",
        b"X" + struct.pack("<I", 2**31 - 1) + b"abc.",
        b"\x8d" + struct.pack("<Q", 2**60) + b"abc.",
        b"\x8a\xff" + b"\x01" * 255 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"I" + b"9" * 5_000 + b"\n.",
        b"",
        b".",
        b"]",
        b"hello, this is text",
        b"\x89PNG\r\n\x1a\n",
        b"a.",
        b"h\x07.",
        b"]]u.",
        b"(]]d.",  # a list for a key
        b"\x80\x09].",
        b"I12x\n.",
        b"(1.",
        b"(((t.",
    ],
)
def test_a_file_that_asks_for_the_impossible_is_refused(folder, data):
    with pytest.raises(InvalidInput, match=r"refs\(unc\)\.p is (no pickle|a pickle that)"):
        read(folder, data)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(folder, data):
    read_or_refused(folder, data)


@given(plain, st.integers(0, 4), st.data())
def test_a_pickle_with_a_changed_byte_is_read_or_refused(folder, value, protocol, data):
    whole = bytearray(pickle.dumps([value, "text", 12], protocol=protocol))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    read_or_refused(folder, bytes(whole))


def test_deep_nesting_is_read_or_refused(folder):
    depth = 200_000
    read_or_refused(folder, b"]" * depth + b"a" * (depth - 1) + b".")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        load_plain_pickle(tmp_path / "refs(unc).p")
