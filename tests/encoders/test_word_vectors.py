"""Files of word vectors, their table, phrases to matrices, and what a checkpoint carries."""

import gzip
import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from refseg.encoders.vector_files import read_entries, spacy_hash
from refseg.encoders.word_vectors import PhraseVectors, WordTable, table_folder, table_name, write_table
from refseg.errors import InvalidInput

ENTRIES = {
    "man": [1.0, 2.0, 3.0],
    "left": [0.5, -1.0, 0.0],
    "Man": [4.0, 4.0, 4.0],
    "'s": [3.0, 0.0, 1.0],
    ". . .": [9.0, 9.0, 9.0],
    "café": [0.25, 0.5, 0.75],
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def glove_text():
    return "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in ENTRIES.items())


def glove(folder):
    (folder / "glove.txt").write_text(glove_text(), encoding="utf-8")
    return folder / "glove.txt"


def word2vec(folder):
    (folder / "words.vec").write_text(f"{len(ENTRIES)} 3\n{glove_text()}", encoding="utf-8")
    return folder / "words.vec"


def zipped(folder):
    with zipfile.ZipFile(folder / "glove.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.txt", glove_text())
    return folder / "glove.zip"


def gzipped(folder):
    with gzip.open(folder / "glove.txt.gz", "wt", encoding="utf-8") as file:
        file.write(glove_text())
    return folder / "glove.txt.gz"


def npz(folder):
    np.savez(folder / "glove.npz", words=np.array(list(ENTRIES)), vectors=np.array(list(ENTRIES.values())))
    return folder / "glove.npz"


def spacy(folder):
    """A package's folder: rows in another order than words, and a word without a row."""
    vocab = folder / "en_vectors" / "en_vectors-2.3.0" / "vocab"
    vocab.mkdir(parents=True)
    words = list(ENTRIES)
    with (vocab / "vectors").open("wb") as file:
        np.save(file, np.array([ENTRIES[word] for word in reversed(words)], dtype=np.float32))
    packed = bytes([0x80 | (len(words) + 1)])
    for row, word in enumerate(reversed(words)):
        packed += b"\xcf" + struct.pack(">Q", spacy_hash(word)) + bytes([row])
    packed += b"\xcf" + struct.pack(">Q", spacy_hash("rowless")) + b"\xff"
    (vocab / "key2row").write_bytes(packed)
    (vocab / "strings.json").write_text(json.dumps([*words, "rowless", "unheard"]))
    return folder / "en_vectors"


@pytest.mark.parametrize("form", [glove, word2vec, zipped, gzipped, npz, spacy])
def test_every_published_form_is_read_into_the_same_table(tmp_path, form):
    folder = write_table(form(tmp_path), name="vectors")
    table = WordTable.open(folder)
    assert (len(table), table.dim) == (6, 3)
    assert all(table.find(word).tolist() == vector for word, vector in ENTRIES.items())
    assert table.find("rowless") is None
    assert isinstance(table.vectors, np.memmap)


def test_spacys_hash_is_the_known_one():
    assert spacy_hash("coffee") == 3197928453018144401  # printed in spaCy's own documentation


def test_of_equal_words_the_first_counts(tmp_path):
    (tmp_path / "v.txt").write_text("a 1 1\nb 2 2\na 3 3\n")
    assert WordTable.open(write_table(tmp_path / "v.txt")).find("a").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a 1 2 3\nb 1 2\n", "line 2 holds no word and 3 numbers"),
        ("a 1 2 3\nb 1 x 3\n", "line 2"),
        ("these are no vectors\n", "holds no word vectors"),
        ("", "holds no word vectors"),
    ],
)
def test_a_damaged_file_is_told_and_leaves_no_table(tmp_path, content, told):
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(InvalidInput, match=told):
        write_table(tmp_path / "v.txt")
    assert not table_folder("v").exists()


def test_a_zip_of_several_texts_asks_for_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "glove.6B.zip", "w") as archive:
        archive.writestr("a.txt", glove_text())
        archive.writestr("b.txt", glove_text())
    with pytest.raises(InvalidInput, match="holds 2 text files"):
        list(read_entries(tmp_path / "glove.6B.zip"))


def test_tables_are_called_like_their_files(tmp_path):
    for name in ("glove.840B.300d.txt", "glove.840B.300d.zip", "glove.840B.300d.txt.gz"):
        assert table_name(tmp_path / name) == "glove.840B.300d"


def reader(max_words=4):
    return PhraseVectors("glove", dim=3, max_words=max_words)


def test_words_are_means_of_tokens_unknown_ones_zero_and_padding_zero(tmp_path):
    write_table(glove(tmp_path))
    found = reader()(["man's  left zzyzx", "Man"])
    assert found.values.shape == (2, 4, 3)
    assert found.values[0].tolist() == [[2, 1, 2], [0.5, -1, 0], [0, 0, 0], [0, 0, 0]]
    assert found.values[1].tolist() == [[4, 4, 4], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found.valid.tolist() == [[True, True, True, False], [True, False, False, False]]


def test_words_beyond_the_last_are_left_out(tmp_path):
    write_table(glove(tmp_path))
    assert torch.equal(reader(2)(["man left Man"]).values, reader(2)(["man left"]).values)


def test_without_vectors_the_sentence_says_where_to_get_them():
    with pytest.raises(InvalidInput, match=r"download https://.*zip.*refseg vectors glove\.840B\.300d\.zip"):
        PhraseVectors("glove.840B.300d", dim=300, max_words=15)(["the dog"])


def test_a_table_of_another_dimension_is_refused(tmp_path):
    write_table(glove(tmp_path))
    with pytest.raises(InvalidInput, match="3 numbers each, and the model reads 300"):
        PhraseVectors("glove", dim=300, max_words=15)(["man"])


def test_carried_vectors_need_no_table(tmp_path, monkeypatch):
    write_table(glove(tmp_path))
    with_table = reader()
    with_table.carry(["man's", "left zzyzx"])
    text = with_table.to_text()
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "another machine"))
    alone = reader()
    alone.take(text)
    assert torch.equal(alone(["man's zzyzx left"]).values, with_table(["man's zzyzx left"]).values)
    with pytest.raises(InvalidInput, match="carries 4 of them, without 'Man'"):
        alone(["Man"])


def test_carried_vectors_of_another_table_are_refused(tmp_path):
    write_table(glove(tmp_path))
    given = reader()
    given.carry(["man"])
    with pytest.raises(InvalidInput, match="reads other with 3"):
        PhraseVectors("other", dim=3, max_words=4).take(given.to_text())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"table": 1}'])
def test_damaged_carried_vectors_are_told(text):
    with pytest.raises(InvalidInput, match="damaged"):
        reader().take(text)


def test_a_damaged_table_is_told(tmp_path):
    folder = write_table(glove(tmp_path))
    (folder / "vectors.f32").write_bytes(b"")
    with pytest.raises(InvalidInput, match="delete the folder and read the file again"):
        reader()(["man"])
