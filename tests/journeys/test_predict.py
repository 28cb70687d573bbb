"""`refseg predict` from words to files, with a model whose answers are known."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.run_cli import load as load_seeing
from media.test_video_stream import with_sound
from refseg.cli import main
from refseg.media.video import read_clip
from refseg.media.video_write import write_video

TESTS = Path(__file__).parents[1]
RED_BOX = [10, 5, 30, 20]  # x1, y1, x2, y2


def red_picture(height=64, width=64, box=RED_BOX):
    pixels = np.full((height, width, 3), 90, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = (255, 0, 0)
    return pixels


def save(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with one picture, and a predictor for any checkpoint's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refseg.predictor.load", load_seeing)
    save(tmp_path / "photo.png", red_picture())
    return tmp_path


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def visible_files(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")
    )


def test_a_picture_and_a_phrase_give_a_mask_an_overlay_and_a_line(here, refseg):
    code, _, _ = refseg("predict", "any", "photo.png", "the red")
    assert code == 0
    assert visible_files(here / "refseg-out") == [
        "photo--the-red.mask.png",
        "photo--the-red.overlay.png",
        "results.jsonl",
    ]


def test_the_mask_file_is_255_on_the_object_and_0_elsewhere(here, refseg):
    refseg("predict", "any", "photo.png", "red")
    mask = np.array(Image.open("refseg-out/photo--red.mask.png"))
    wanted = np.zeros((64, 64), np.uint8)
    wanted[5:20, 10:30] = 255
    assert np.array_equal(mask, wanted)


def test_the_json_line_tells_all_of_the_answer(here, refseg):
    from pycocotools import mask as coco

    refseg("predict", "any", "photo.png", "red")
    (line,) = lines_of(here / "refseg-out")
    decoded = coco.decode(line.pop("rle"))
    assert decoded[5:20, 10:30].all() and decoded.sum() == 300
    assert line.pop("seconds") > 0
    assert line.pop("score") == pytest.approx(1, abs=1e-5)
    assert line == {
        "input": "photo.png",
        "phrase": "red",
        "box": RED_BOX,
        "area": 300,
        "size": [64, 64],
        "checkpoint": "any",
        "mask": "photo--red.mask.png",
        "overlay": "photo--red.overlay.png",
    }


def test_json_prints_the_lines_and_nothing_else(here, refseg):
    _, out, err = refseg("predict", "any", "photo.png", "red", "left", "--json")
    assert [json.loads(line) for line in out.splitlines()] == lines_of(here / "refseg-out")
    assert err == ""


def test_people_read_one_line_for_each_answer(here, refseg):
    _, out, _ = refseg("predict", "any", "photo.png", "red", "nothing")
    first, second = out.splitlines()
    assert "'red'" in first and "box 10, 5 to 30, 20" in first and "photo--red.overlay.png" in first
    assert "nothing found" in second


def test_an_empty_answer_has_no_box_and_an_empty_mask(here, refseg):
    refseg("predict", "any", "photo.png", "nothing")
    (line,) = lines_of(here / "refseg-out")
    assert line["box"] is None and line["area"] == 0
    assert not np.array(Image.open("refseg-out/photo--nothing.mask.png")).any()


def test_a_folder_is_many_pictures(here, refseg):
    for name in ("b.png", "a.jpg"):
        save(here / "pictures" / name, red_picture(40, 60))
    (here / "pictures" / "notes.txt").write_text("no picture")
    code, _, _ = refseg("predict", "any", "pictures", "left", "right")
    assert code == 0
    assert [(line["input"], line["phrase"]) for line in lines_of(here / "refseg-out")] == [
        (str(Path("pictures/a.jpg")), "left"),
        (str(Path("pictures/a.jpg")), "right"),
        (str(Path("pictures/b.png")), "left"),
        (str(Path("pictures/b.png")), "right"),
    ]


def test_a_folder_told_to_be_a_clip_is_one_clip(here, refseg):
    for number in (1, 2, 10):
        save(here / "frames" / f"{number}.png", red_picture(box=(number, 5, number + 20, 20)))
    code, _, _ = refseg("predict", "any", "frames", "red", "--clip")
    assert code == 0
    (line,) = lines_of(here / "refseg-out")
    assert [box[0] for box in line["boxes"]] == [1, 2, 10]
    assert len(list((here / "refseg-out" / "frames--red.masks").iterdir())) == 3


def test_several_pictures_told_to_be_a_clip_are_one_clip_in_the_order_given(here, refseg):
    for name, left in (("x.png", 20), ("y.png", 4)):
        save(here / name, red_picture(box=(left, 5, left + 20, 20)))
    refseg("predict", "any", "x.png", "y.png", "red", "--clip")
    (line,) = lines_of(here / "refseg-out")
    assert [box[0] for box in line["boxes"]] == [20, 4]


def make_video(path, count=5, height=48, width=64):
    pictures = [red_picture(height, width, (4 * n, 8, 4 * n + 24, 32)) for n in range(count)]
    write_video(path, pictures, [Fraction(n, 10) for n in range(count)], Fraction(10))
    return path


def test_a_video_gives_a_mask_for_each_frame_and_an_overlay_video(here, refseg):
    make_video(here / "clip.mp4")
    code, _, _ = refseg("predict", "any", "clip.mp4", "red")
    assert code == 0
    (line,) = lines_of(here / "refseg-out")
    assert line["times"] == [0, 0.1, 0.2, 0.3, 0.4]
    assert [box[0] for box in line["boxes"]] == pytest.approx([0, 4, 8, 12, 16], abs=2)  # H.264 blurs edges
    assert visible_files(here / "refseg-out" / "clip--red.masks") == [f"{n:05d}.png" for n in range(5)]
    overlay = read_clip(here / "refseg-out" / line["overlay"])
    assert overlay.frames.shape == (5, 3, 48, 64)
    assert overlay.times == tuple(Fraction(n, 10) for n in range(5))


def test_every_second_frame_of_a_video_is_every_second_mask(here, refseg):
    make_video(here / "clip.mp4")
    refseg("predict", "any", "clip.mp4", "red", "--every", "2")
    (line,) = lines_of(here / "refseg-out")
    assert line["times"] == [0, 0.2, 0.4]


def test_a_video_longer_than_allowed_is_refused_with_a_way_out(here, refseg):
    make_video(here / "clip.mp4")
    code, _, err = refseg("predict", "any", "clip.mp4", "red", "--max-frames", "3")
    assert code == 2
    assert "--every 2" in err and "--max-frames" in err


def test_phrases_come_from_a_file_one_a_line(here, refseg):
    (here / "phrases.txt").write_text("red\n\n  left \n", encoding="utf-8")
    refseg("predict", "any", "photo.png", "--phrases", "phrases.txt", "-p", "right")
    assert [line["phrase"] for line in lines_of(here / "refseg-out")] == ["right", "red", "left"]


def test_the_same_phrase_twice_is_asked_once(here, refseg):
    refseg("predict", "any", "photo.png", "red", "red")
    assert len(lines_of(here / "refseg-out")) == 1


def test_a_phrase_that_is_also_a_file_is_given_by_option(here, refseg):
    (here / "red").write_text("")
    code, _, err = refseg("predict", "any", "photo.png", "red")
    assert code == 2 and "--phrase 'red'" in err
    code, _, _ = refseg("predict", "any", "photo.png", "-p", "red")
    assert code == 0


def test_running_twice_without_force_refuses_before_any_work(here, refseg):
    refseg("predict", "any", "photo.png", "red")
    (here / "refseg-out" / "photo--red.mask.png").write_bytes(b"mine")
    code, _, err = refseg("predict", "any", "photo.png", "left", "red")
    assert code == 2
    assert "photo--red.mask.png and 1 more exists already" in err and "--force" in err
    assert (here / "refseg-out" / "photo--red.mask.png").read_bytes() == b"mine"
    assert not (here / "refseg-out" / "photo--left.mask.png").exists()


def test_force_replaces_files_and_their_line(here, refseg):
    refseg("predict", "any", "photo.png", "red", "left")
    save(here / "photo.png", red_picture(box=(20, 5, 40, 20)))
    code, _, _ = refseg("predict", "any", "photo.png", "red", "--force")
    assert code == 0
    boxes = {line["phrase"]: line["box"] for line in lines_of(here / "refseg-out")}
    assert boxes == {"left": [0, 0, 32, 64], "red": [20, 5, 40, 20]}


def test_force_leaves_no_frame_of_a_longer_clip_behind(here, refseg):
    make_video(here / "clip.mp4", count=5)
    refseg("predict", "any", "clip.mp4", "red")
    make_video(here / "clip.mp4", count=2)
    refseg("predict", "any", "clip.mp4", "red", "--force")
    assert visible_files(here / "refseg-out" / "clip--red.masks") == ["00000.png", "00001.png"]


def test_another_phrase_later_joins_the_results(here, refseg):
    refseg("predict", "any", "photo.png", "red")
    refseg("predict", "any", "photo.png", "left")
    assert [line["phrase"] for line in lines_of(here / "refseg-out")] == ["red", "left"]


def test_a_results_file_of_someone_else_is_not_touched(here, refseg):
    (here / "refseg-out").mkdir()
    (here / "refseg-out" / "results.jsonl").write_text('{"theirs": 1}\n')
    code, _, err = refseg("predict", "any", "photo.png", "red", "--force")
    assert code == 2 and "results.jsonl line 1 was not written by refseg" in err
    assert (here / "refseg-out" / "results.jsonl").read_text() == '{"theirs": 1}\n'


def test_one_bad_picture_does_not_lose_the_others(here, refseg):
    save(here / "pictures" / "good.png", red_picture())
    (here / "pictures" / "bad.png").write_bytes(b"no picture at all")
    code, out, err = refseg("predict", "any", "pictures", "red", "--json")
    assert code == 1
    assert "bad.png is not a picture" in err and "1 of 2 inputs" in err
    assert [line["phrase"] for line in lines_of(here / "refseg-out")] == ["red"]
    assert "bad.png" in json.loads(out.splitlines()[-1])["error"]


def test_two_inputs_of_one_name_get_files_of_their_own(here, refseg):
    save(here / "a" / "photo.png", red_picture())
    save(here / "b" / "photo.jpg", red_picture())
    refseg("predict", "any", "a/photo.png", "b/photo.jpg", "left")
    assert [line["mask"] for line in lines_of(here / "refseg-out")] == [
        "photo--left.mask.png",
        "photo-2--left.mask.png",
    ]


def test_masks_have_the_size_of_the_upright_picture(here, refseg):
    turned = Image.fromarray(
        np.ascontiguousarray(np.rot90(red_picture(40, 60)))
    )  # stored a quarter turn to the left
    exif = Image.Exif()
    exif[0x0112] = 6  # show it a quarter turn to the right
    turned.save(here / "phone.jpg", exif=exif, quality=95, subsampling=0)
    refseg("predict", "any", "phone.jpg", "left")
    (line,) = lines_of(here / "refseg-out")
    assert line["size"] == [40, 60] and line["box"] == [0, 0, 30, 40]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["any", "absent.png", "red"], "there is no file or folder 'absent.png'"),
        (["any", "red"], "no input was given"),
        (["photo.png", "red one"], "which comes first, as in: refseg predict scout photo.png 'red one'"),
        (["any"], "no input was given"),
        (["any", "photo.png"], "no phrase was given"),
        (["any", "photo.png", ""], "phrase 1 is empty"),
        (["any", "photo.png", "-p", " "], "phrase 1 is empty"),
        (["any", "https://example.org/a.png", "red"], "is a web address; download it first"),
        (["any", "photo.png", "red", "photo.png"], "comes after the phrase 'red'"),
        (["any", "photo.png", "absent", "-p", "red"], "there is no file or folder 'absent'"),
        (["any", "photo.png", "red", "pictures/absent"], "if it is a phrase, give it with --phrase"),
        (["any", "photo.png", "--phrases", "absent.txt"], "absent.txt cannot be read"),
        (["any", "photo.png", "unicorn"], "does not know 'unicorn'"),
        (["any", "photo.png", "red", "--device", "gpu"], "'gpu' is no device"),
        (["any", "photo.png", "red", "--dtype", "int8"], "'int8' is not one that predicts"),
        (["any", "photo.png", "red", "--out", "photo.png"], "photo.png is a file"),
        (["any", "photo.png", "red", "--max-pixels", "100"], "--max-pixels"),
        (["any", "empty", "red"], "holds no pictures"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(here, refseg, words, sentence):
    (here / "empty").mkdir()
    code, out, err = refseg("predict", *words)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert out == ""
    assert not (here / "refseg-out").exists()


def test_a_mistake_is_also_told_as_json(here, refseg):
    code, out, _ = refseg("predict", "any", "absent.png", "red", "--json")
    assert code == 2
    assert json.loads(out)["error"].startswith("there is no file or folder 'absent.png'")


@pytest.mark.parametrize(
    "verb_and_option", [["predictt"], ["predict", "any", "photo.png", "red", "--devise", "cpu"]]
)
def test_a_wrong_verb_or_option_is_exit_code_2(here, refseg, verb_and_option):
    code, _, err = refseg(*verb_and_option)
    assert code == 2 and "No such" in err


def test_a_folder_that_may_not_be_written_is_told_before_work(here, refseg, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("refseg.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("refseg.predictor.load", lambda *_, **__: pytest.fail("work began"))
    code, _, err = refseg("predict", "any", "photo.png", "red")
    assert code == 2 and "refseg-out cannot be written (Permission denied)" in err


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(here, refseg, monkeypatch):
    def write_half(_picture, target, **_):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(Image.Image, "save", write_half)
    code, _, err = refseg("predict", "any", "photo.png", "red")
    assert code == 2 and err.startswith("refseg: the disk is full, writing ") and err.count("\n") == 1
    assert [p for p in (here / "refseg-out").rglob("*") if p.is_file()] == []


def test_memory_that_runs_out_is_one_sentence(here, refseg, monkeypatch):
    def fill(*_, **__):
        raise MemoryError

    monkeypatch.setattr("refseg.predictor.Predictor.encode", fill)
    code, _, err = refseg("predict", "any", "photo.png", "red")
    assert code == 2 and "memory ran out" in err


def test_a_fault_of_ours_is_not_told_as_the_users(here, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("refseg.predictor.Predictor.encode", fail)
    monkeypatch.setattr(sys, "argv", ["refseg", "predict", "any", "photo.png", "red"])
    with pytest.raises(RuntimeError, match="multiplied"):
        main()


def start(folder, *words, pace="slowly"):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
        "REFSEG_TEST_PACE": pace,
    }
    command = [sys.executable, str(TESTS / "helpers" / "run_cli.py"), "predict", "any", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(pattern, folder, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if any(folder.rglob(pattern)):
            return
        time.sleep(0.02)
    pytest.fail(f"no {pattern} after {seconds} s")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_run_leaves_only_whole_files(here, number, code):
    for index in range(40):
        save(here / "pictures" / f"{index}.png", red_picture())
    run = start(here, "pictures", "red", "left")
    wait_for("*.overlay.png", here)
    run.send_signal(number)
    assert run.wait(60) == code
    written = visible_files(here / "refseg-out")
    assert 0 < len(written) < 160
    for name in written:
        if name.endswith(".png"):
            Image.open(here / "refseg-out" / name).load()
        else:
            assert lines_of(here / "refseg-out")


def test_a_run_stopped_by_the_keyboard_keeps_the_lines_of_what_is_done(here):
    for index in range(40):
        save(here / "pictures" / f"{index}.png", red_picture())
    run = start(here, "pictures", "red")
    wait_for("*.overlay.png", here)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    told = {line["overlay"] for line in lines_of(here / "refseg-out")}
    made = {name for name in visible_files(here / "refseg-out") if name.endswith(".overlay.png")}
    assert told and len(made - told) <= 1  # at most the one that was being written


def test_a_killed_clip_leaves_no_half_folder(here):
    for index in range(40):
        save(here / "frames" / f"{index}.png", red_picture())
    run = start(here, "frames", "red", "--clip")
    wait_for("00003.png", here)
    run.send_signal(signal.SIGKILL)
    run.wait(60)
    assert [p for p in (here / "refseg-out").iterdir() if not p.name.startswith(".")] == []


# Clips longer than a window


def long_clip(path, count=40):
    pictures = [red_picture(48, 64, box=(2 + n, 5, 22 + n, 25)) for n in range(count)]
    times = [Fraction(n * n % 3 + 4 * n, 40) for n in range(count)]  # a variable rate
    write_video(path, pictures, times, Fraction(10))
    return times


def test_a_long_clip_is_answered_in_windows_as_it_is_read(here, refseg):
    times = long_clip(here / "long.mp4")
    code, _, err = refseg("predict", "any", "long.mp4", "red", "--window", "8", "--overlap", "2")
    assert code == 0
    assert "40 frames in 7 windows" in err and "peak memory" in err
    (line,) = lines_of(here / "refseg-out")
    assert line["num_frames"] == 40 and "rles" not in line
    frames = [json.loads(text) for text in (here / "refseg-out" / line["frames"]).read_text().splitlines()]
    assert [entry["time"] for entry in frames] == pytest.approx([float(t) for t in times])
    assert all(abs(entry["box"][0] - (2 + n)) <= 1 for n, entry in enumerate(frames))
    assert len(list((here / "refseg-out" / line["mask"]).iterdir())) == 40
    assert read_clip(here / "refseg-out" / line["overlay"]).times == tuple(times)


def test_windows_give_the_masks_of_the_whole_clip_where_frames_are_seen_alone(here, refseg):
    long_clip(here / "long.mp4", count=12)
    refseg("predict", "any", "long.mp4", "red", "--window", "5", "--overlap", "2", "--out", "windows")
    refseg("predict", "any", "long.mp4", "red", "--window", "0", "--out", "whole")
    (line,) = lines_of(here / "whole")
    for number in range(12):
        one, other = (
            np.array(Image.open(f"{out}/{line['mask']}/{number:05d}.png")) for out in ("windows", "whole")
        )
        assert np.array_equal(one, other)


def test_a_whole_clip_has_a_limit_and_windows_have_one_when_asked(here, refseg):
    long_clip(here / "long.mp4", count=12)
    code, _, err = refseg("predict", "any", "long.mp4", "red", "--window", "0", "--max-frames", "8")
    assert code == 2 and "limit of 8" in err
    code, _, err = refseg(
        "predict", "any", "long.mp4", "red", "--window", "4", "--overlap", "0", "--max-frames", "8"
    )
    assert code == 2 and "limit of 8" in err
    assert visible_files(here / "refseg-out") == []


def test_the_overlay_of_a_clip_keeps_its_sound(here, refseg):
    import av

    with_sound(here / "talk.mp4", seconds=2)
    refseg("predict", "any", "talk.mp4", "red", "--window", "8", "--overlap", "2")
    (line,) = lines_of(here / "refseg-out")
    with av.open(str(here / "refseg-out" / line["overlay"])) as container:
        assert [stream.type for stream in container.streams] in (["video", "audio"], ["audio", "video"])
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) > 1.8


def test_windows_that_do_not_fit_are_refused_before_anything_is_loaded(here, refseg):
    code, _, err = refseg("predict", "any", "photo.png", "red", "--window", "4", "--overlap", "3")
    assert code == 2 and "do not fit" in err


def test_a_shorter_answer_leaves_no_lines_of_a_longer_one(here, refseg):
    long_clip(here / "long.mp4", count=12)
    refseg("predict", "any", "long.mp4", "red", "--window", "5", "--overlap", "2")
    code, _, err = refseg("predict", "any", "long.mp4", "red")
    assert code == 2 and "exists already" in err
    refseg("predict", "any", "long.mp4", "red", "--force")
    assert visible_files(here / "refseg-out")[-1].endswith("results.jsonl")
    assert not list((here / "refseg-out").glob("*.frames.jsonl"))
