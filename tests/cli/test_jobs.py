import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.cli.predict.inputs import (
    looks_like_file,
    make_jobs,
    phrase_slugs,
    read_phrases,
    slug,
    split_arguments,
    unique_names,
)
from refseg.errors import InvalidInput

SAFE = set(string.ascii_letters + string.digits + "-_")


@given(st.text(), st.integers(1, 60))
def test_a_slug_is_safe_on_every_file_system(text, longest):
    made = slug(text, longest=longest, fallback="phrase-1")
    assert made and set(made) <= SAFE and not made.startswith("-") and not made.endswith("-")
    assert len(made) <= max(longest, len("phrase-1"))


@pytest.mark.parametrize(
    ("phrase", "wanted"),
    [
        ("the Left dog!", "the-left-dog"),
        ("café à gauche", "cafe-a-gauche"),
        ("../../etc/passwd", "etc-passwd"),
        ("左の犬", "phrase-1"),
        ("...", "phrase-1"),
        ("a" * 100, "a" * 40),
        ("con", "con"),
    ],
)
def test_slugs_by_hand(phrase, wanted):
    assert phrase_slugs([phrase]) == [wanted]


@given(st.lists(st.text(max_size=8), max_size=12))
def test_slugs_of_different_phrases_differ_also_without_case(phrases):
    made = phrase_slugs(phrases)
    assert len({name.lower() for name in made}) == len(phrases)


@given(st.lists(st.sampled_from(["a", "A", "a-2", "b", "A-2"]), max_size=12))
def test_unique_names_stay_unique_where_case_does_not_count(names):
    made = unique_names(names)
    assert len({name.lower() for name in made}) == len(names)
    assert all(made_name.startswith(name) for made_name, name in zip(made, names, strict=True))


@pytest.mark.parametrize(
    "word", ["photo.jpg", "PHOTO.JPEG", "clip.mp4", "a/b", "folder\\file", "photo of my dog.png"]
)
def test_words_that_look_like_files(word):
    assert looks_like_file(word)


@pytest.mark.parametrize(
    "word", ["left dog", "dog", "the black/white dog", "mr. dog", "dog no.2", "3.5 cm stick"]
)
def test_words_that_look_like_phrases(word):
    assert not looks_like_file(word)


def test_inputs_end_where_a_word_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Path(name).touch()
    assert split_arguments(["a.png", "b.png", "left dog", "cat"], []) == (
        [Path("a.png"), Path("b.png")],
        ["left dog", "cat"],
    )


def test_a_word_too_long_for_a_file_is_a_phrase(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    phrase = "dog " * 3000
    assert split_arguments(["a.png", phrase], []) == ([Path("a.png")], [phrase])


def test_names_of_inputs_keep_their_case_and_lose_what_is_unsafe(tmp_path):
    for name in ("My Photo (1).png", "üb.png"):
        (tmp_path / name).touch()
    jobs = make_jobs([tmp_path / "My Photo (1).png", tmp_path / "üb.png"], as_clip=False)
    assert [job.name for job in jobs] == ["My-Photo-1", "ub"]


def test_an_input_given_twice_is_one_job(tmp_path):
    (tmp_path / "a.png").touch()
    assert len(make_jobs([tmp_path / "a.png"] * 2, as_clip=False)) == 1


def test_a_folder_gives_its_pictures_and_videos(tmp_path):
    for name in ("2.png", "10.jpg", "clip.mp4", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    jobs = make_jobs([tmp_path], as_clip=False)
    assert [(job.paths[0].name, job.is_clip) for job in jobs] == [
        ("2.png", False),
        ("10.jpg", False),
        ("clip.mp4", True),
    ]


def test_as_clips_folders_stand_alone_and_loose_pictures_together(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for name in ("1.png", "2.png", "v.mp4"):
        (tmp_path / name).touch()
    inputs = [tmp_path / name for name in ("a", "1.png", "v.mp4", "b", "2.png")]
    jobs = make_jobs(inputs, as_clip=True)
    assert [[p.name for p in job.paths] for job in jobs] == [["a"], ["1.png", "2.png"], ["v.mp4"], ["b"]]
    assert all(job.is_clip for job in jobs)


def test_phrases_of_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfleft dog\r\n\r\ncat\r\n")
    assert read_phrases(tmp_path / "p.txt") == ["left dog", "cat"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n \n", "holds no phrase"), (b"\xff\xfe\xff", "cannot be read")]
)
def test_a_file_of_phrases_that_says_nothing_is_told(tmp_path, content, message):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        read_phrases(tmp_path / "p.txt")


def test_the_limits_shown_in_help_are_those_of_the_readers():
    from refseg.cli.predict import run
    from refseg.media import images, video

    assert run.MAX_PIXELS == images.DEFAULT_MAX_PIXELS
    assert run.MAX_FRAMES == video.DEFAULT_MAX_FRAMES
