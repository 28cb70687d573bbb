"""The open form, line by line: what is right survives writing and reading, what is wrong is told with its place."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refseg.data.formats.masks import rle_of_mask
from refseg.data.formats.phrase_line import PhraseLine, parse_line, words_of, write_phrases
from refseg.errors import InvalidInput

SIZE = (6, 9)

names = st.text(
    st.characters(categories=["L", "N"], include_characters=" -_"), min_size=1, max_size=8
).filter(lambda name: name.strip() == name and ":" not in name)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
codes = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=6, max_size=6).map(
    lambda rows: rle_of_mask(torch.tensor(rows))
)
counts = st.lists(st.integers(0, 54), min_size=1, max_size=5).map(
    lambda runs: {"size": list(SIZE), "counts": runs}
)
polygons = st.lists(
    st.lists(st.floats(-5, 15, allow_nan=False) | st.integers(-5, 15), min_size=6, max_size=6),
    min_size=1,
    max_size=3,
)
stored = codes | counts | polygons | paths.map(lambda path: path + ".png")
optional = st.none() | texts


@st.composite
def phrase_lines(draw):
    frames = tuple(draw(st.lists(paths, min_size=1, max_size=4)))
    masks = draw(st.lists(st.none() | stored, min_size=len(frames), max_size=len(frames)))
    if draw(st.booleans()) or all(mask is None for mask in masks):
        masks = None
    return PhraseLine(
        frames,
        draw(texts),
        None if masks is None else tuple(masks),
        split=draw(optional),
        register=draw(optional),
        category=draw(optional),
        id=draw(optional),
    )


@given(phrase_lines())
def test_a_line_survives_its_json(line):
    assert parse_line(line.to_json()) == line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(phrase_lines(), max_size=5))
def test_a_file_survives_writing_and_reading(tmp_path, lines):
    write_phrases(tmp_path / "all.jsonl", lines)
    texts = (tmp_path / "all.jsonl").read_bytes().split(b"\n")
    assert [parse_line(text) for text in texts if text] == lines


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: json.dumps({"image": text, "mask": text}).encode())
)
def test_any_bytes_are_a_line_or_one_sentence(text):
    try:
        line = parse_line(text)
    except InvalidInput:
        return
    assert isinstance(line, PhraseLine)


GOOD = {"image": "a.png", "phrase": "the left dog", "mask": "m.png"}


def changed(**keys):
    """The good line with some keys changed; a key set to ... is left out."""
    return json.dumps({key: value for key, value in (GOOD | keys).items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "a list of 1, and must be an object"),
        (changed(mask=...), r'no "mask".*no_target'),
        (changed(mask=None), r'no "mask"'),
        (changed(no_target=True), "leave one of them out"),
        (changed(no_target="yes"), "must be true or false"),
        (changed(maks="m.png", mask=...), "no key named 'maks'; did you mean 'mask'"),
        (changed(bbox=[1, 2, 3, 4]), "no key named 'bbox'"),
        (changed(phrase=...), 'no "phrase"'),
        (changed(phrase="  "), "empty"),
        (changed(phrase=7), "the number 7"),
        (changed(image=...), "neither"),
        (changed(frames=["a.png"]), "both"),
        (changed(image=7), '"image" holds the number 7'),
        (changed(image=""), "empty text"),
        (changed(image="/etc/passwd"), "leaves the folder"),
        (changed(image="../a.png"), "leaves the folder"),
        (changed(image="C:/a.png"), "leaves the folder"),
        (changed(image="a\\b.png"), "backslashes"),
        (changed(image="a\u0000.png"), "where the path"),
        (changed(mask="../m.png"), "leaves the folder"),
        (changed(mask=3), "not the number 3"),
        (changed(mask={"size": [1, 2]}), '"size" and "counts"'),
        (changed(mask=[1, 2, 3, 4, 5, 6]), "flat list"),
        (changed(mask=[[1, 2, 3, 4]]), "4 numbers"),
        (changed(image=..., frames=[]), '"frames" is a list of 0'),
        (changed(image=..., frames="a.png"), '"frames" is the text'),
        (changed(image=..., frames=["a.png", "b.png"]), "each of its 2 frames.*the text"),
        (changed(image=..., frames=["a.png", "b.png"], mask=["m.png"]), "a list of 1"),
        (changed(image=..., frames=["a.png", "b.png"], mask=[None, None]), "null in every frame"),
        (changed(split=1), '"split" is the number 1'),
        (changed(register=""), '"register" is an empty text'),
        (changed(phrase="\ud800"), '"phrase"'),
        (b'{"image": "\xff"}', "not text in UTF-8"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(text, said):
    with pytest.raises(InvalidInput, match=said) as refusal:
        parse_line(text)
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    lines = [PhraseLine(("a.png",), "a dog", None), PhraseLine(("../b.png",), "a dog", None)]
    with pytest.raises(InvalidInput, match=r"all\.jsonl line 2: .*leaves"):
        write_phrases(tmp_path / "all.jsonl", lines)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_has_one_mask_a_frame_and_null_where_nothing_is_visible(tmp_path):
    line = parse_line(
        json.dumps({"frames": ["a", "b"], "phrase": "dog", "mask": [None, [[0, 0, 9, 0, 9, 6, 0, 6]]]})
    )
    assert line.read_masks(tmp_path, SIZE).flatten(1).sum(1).tolist() == [0, 54]


def test_a_mask_without_a_pixel_must_say_that_nothing_answers(tmp_path):
    empty = {"size": list(SIZE), "counts": [54]}
    with pytest.raises(InvalidInput, match=r"no pixel.*no_target"):
        parse_line(json.dumps({"image": "a", "phrase": "dog", "mask": empty})).read_masks(tmp_path, SIZE)
    absent = parse_line(json.dumps({"image": "a", "phrase": "dog", "no_target": True}))
    assert not absent.read_masks(tmp_path, SIZE).any()


def test_words_are_lower_case_and_free_of_punctuation():
    assert words_of("The man's hat, left_most; 2nd!") == ["the", "man", "s", "hat", "left", "most", "2nd"]
