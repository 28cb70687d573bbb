"""Miniatures of video data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.datasets_tools import mask_facts, same
from refseg.data import video_items
from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions, squeeze
from refseg.data.formats.masks import inclusive_box
from refseg.data.readers.a2d import A2D, raw_samples
from refseg.data.readers.ref_davis import ANNOTATORS, RefDavis
from refseg.data.readers.sparse_video_set import LabelledFrames
from refseg.data.readers.video_set import VideoPhrases
from refseg.media.video import window_around


def run(root: Path, expected: dict[str, Any]) -> bool:
    """Whether the case is one of these; if so it was run."""
    for mark, runner in {
        "windows_of_4_mttr": run_youtube,
        "converted": run_davis,
        "video_lengths": run_a2d,
        "coco_ground_truth": run_jhmdb,
    }.items():
        if mark in expected:
            runner(root, expected)
            return True
    if "valid_u" in expected.get("splits", {}):
        run_mevis(root, expected)
        return True
    return False


def _told_length(expected: dict[str, Any], start: str, end: str) -> tuple[str, int]:
    """A key with a number in it, and the number."""
    return next((key, int(key.split(start)[1].split(end)[0])) for key in expected if key.startswith(start))


def run_youtube(root: Path, expected: dict[str, Any]) -> None:
    data = open_dataset("ref-youtube-vos", split="train", root=root, options=ReadOptions(item="phrase"))
    key, length = _told_length(expected, "clip_starts_with_", "_frames")
    items = video_items.clip_starts(data, length)
    same([_start(data, item) for item in items], expected[key], key)
    singles = [
        _single(data, video, expression, frame)
        for video, expression in video_items.evaluation_jobs(data)
        for frame in range(len(video.frames))
    ]
    same(singles, expected["single_frames"], "single_frames")
    for told in expected["clip_invariants"]["examples"]:
        item = items[told["index"]]
        _check_draw(told["frames_idx"], item.frames[0], length, len(data.videos[item.video].frames))
        same(_drawn(data, item, told), told, "clip_invariants")
    key, length = _told_length(expected, "windows_of_", "_mttr")
    got = []
    for item in video_items.windows(data, length):
        video = data.videos[item.video]
        said = video.expressions[item.expression]
        got.append([video.name, [video.frames[f] for f in item.frames], said.id, *said.objects])
    same(got, expected[key], key)
    held_out = open_dataset("ref-youtube-vos", split="valid", root=root)
    jobs = video_items.evaluation_jobs(held_out)
    same([video.name for video in held_out.videos], expected["validation"]["videos"], "videos")
    got = [[video.name, said.id, said.phrase, list(video.frames)] for video, said in jobs]
    same(got, expected["validation"]["jobs"], "jobs")
    files = [f"{video.name}/{said.id}/{frame}.png" for video, said in jobs for frame in video.frames]
    same(files, expected["validation"]["output_files"], "output_files")
    assert len(list(held_out)) == len(held_out)
    assert all(held_out.masks(index) is None for index in range(len(held_out)))


def _start(data: VideoPhrases, item: video_items.ClipItem) -> dict[str, Any]:
    video = data.videos[item.video]
    said = video.expressions[item.expression]
    return {
        "video": video.name,
        "exp": said.phrase,
        "obj_id": int(said.objects[0]),
        "frame_id": item.frames[0],
        "category": data.categories[data.label(video, said)],
    }


def _single(data: VideoPhrases, video, said, frame: int) -> dict[str, Any]:
    mask = data.read_masks(video, [video.expressions.index(said)], [frame])[0, 0]
    entry = {
        "video": video.name,
        "exp": said.phrase,
        "obj_id": int(said.objects[0]),
        "frame": video.frames[frame],
        "valid": int(mask.any()),
        "mask": mask_facts(mask),
    }
    if mask.any():
        entry |= {"caption": squeeze(said.phrase), "label": data.label(video, said)}
    return entry


def _check_draw(frames: list[int], start: int, length: int, count: int) -> None:
    assert frames == sorted(frames) and len(frames) == length and start in frames
    assert all(0 <= frame < count for frame in frames)


def _drawn(data: VideoPhrases, item: video_items.ClipItem, told: dict[str, Any]) -> dict[str, Any]:
    places = [
        (number, row) for number, video in enumerate(data.videos) for row in range(len(video.expressions))
    ]
    example = data.example(places.index((item.video, item.expression)), frames=told["frames_idx"])
    masks = example.masks[0]
    return {
        "index": told["index"],
        "frames_idx": told["frames_idx"],
        "valid": [int(mask.any()) for mask in masks],
        "boxes": [inclusive_box(mask) for mask in masks],
        "mask_areas": [float(mask.sum()) for mask in masks],
        "caption": squeeze(example.phrases[0]),
        "orig_size": list(example.frames.shape[-2:]),
    }


def run_davis(root: Path, expected: dict[str, Any]) -> None:
    for split, wanted in expected["converted"].items():
        data = open_dataset("ref-davis17", split=split, root=root)
        same(data.published_form(), wanted, f"converted {split}")
        names = [list(videos) for videos in (data.published_form()["meta_expressions"]["videos"],)]
        assert names[0] == list(wanted["meta_expressions"]["videos"])
    data = open_dataset("ref-davis17", split="valid", root=root)
    assert isinstance(data, RefDavis)
    jobs = [
        {
            "video": video.name,
            "annotator": annotator,
            "label_in_output": place + 1,
            "expression": int(said.id),
            "obj_id": int(said.objects[0]),
            "exp": said.phrase,
        }
        for video in sorted(data.videos, key=_place_in([job["video"] for job in expected["evaluation_jobs"]]))
        for annotator, line in enumerate(video_items.by_annotator(video))
        for place, said in enumerate(line)
    ]
    same(jobs, _whole(expected["evaluation_jobs"]), "evaluation_jobs")
    for index, video in enumerate(data.videos):
        example = data[index]
        assert set(example.registers) == set(ANNOTATORS)
        first = {number: row for row, number in reversed(list(enumerate(example.objects)))}
        got = [
            {
                "frame": frame,
                "objects": {number: mask_facts(example.masks[row, time]) for number, row in first.items()},
            }
            for time, frame in enumerate(example.frame_names)
        ]
        same(got, expected["ground_truth"][video.name], f"ground truth {video.name}")
        scored = data.true_objects(index)
        facts = [[mask_facts(mask) for mask in masks] for masks in scored.masks]
        got = {
            "objects": len(scored.masks),
            "frames": list(video.frames),
            "areas": [[fact["area"] for fact in row] for row in facts],
            "crc32": [[fact["crc32"] for fact in row] for row in facts],
            "void_areas": [float(void.sum()) for void in scored.void],
        }
        same(got, expected["davis_api"][video.name], f"davis api {video.name}")


def _place_in(order: list[str]):
    return lambda video: order.index(video.name)


def _whole(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers that the case writes as text, as numbers."""
    return [job | {key: int(job[key]) for key in ("expression", "obj_id")} for job in jobs]


def run_a2d(root: Path, expected: dict[str, Any]) -> None:
    data = open_dataset("a2d", split="test", root=root)
    assert isinstance(data, A2D)
    same(
        {name: data.decoded_length(name) for name in expected["video_lengths"]},
        expected["video_lengths"],
        "lengths",
    )
    for split, wanted in expected["single_frame_annotations"].items():
        listed = open_dataset("a2d", split=split, root=root).samples
        raw = raw_samples(data.folder, split)
        same([[s.phrase, s.video, s.frame, int(s.instance)] for s in listed], wanted, f"listed {split}")
        same([[s.phrase, s.video, s.frame, int(s.instance)] for s in raw], wanted, f"raw {split}")
    check_samples(root, "a2d", data, expected)


def run_jhmdb(root: Path, expected: dict[str, Any]) -> None:
    check_samples(root, "jhmdb", open_dataset("jhmdb", root=root), expected)


def check_samples(root: Path, name: str, data: LabelledFrames, expected: dict[str, Any]) -> None:
    truth = data.ground_truth()
    same(
        {key: truth[key] for key in expected["coco_ground_truth"]},
        expected["coco_ground_truth"],
        "ground truth",
    )
    stored = list(data.folder.glob("*_in_coco_format.json"))
    for path in stored:
        same({key: truth[key] for key in ("images", "annotations")}, _read(path), path.name)
    first = {"a2d": 0, "jhmdb": 1}[name]  # what the published lists count frames from
    for key in [key for key in expected if key.startswith("evaluation_samples_with_")]:
        options = ReadOptions(
            window=int(key.split("_with_")[1].split("_")[0]), item="phrase", text="squeezed"
        )
        again = open_dataset(name, root=root, options=options)
        got = [_evaluated(again, index, first, set(expected[key][0])) for index in range(len(again))]
        same(got, expected[key], key)


def _read(path: Path) -> dict[str, Any]:
    told = json.loads(path.read_text())
    return {key: told[key] for key in ("images", "annotations")}


def _evaluated(data: LabelledFrames, index: int, first: int, keys: set[str]) -> dict[str, Any]:
    example, sample = data[index], data.samples_of(index)[0]
    length = data.decoded_length(sample.video) if isinstance(data, A2D) else data.length(sample)
    window = window_around(sample.frame - 1, data.options.window, length)
    assert example.frame_names == tuple(f"{frame + 1:05d}" for frame in window.frames)
    mask = example.masks[0, 0]
    entry = {
        "image_id": example.ids[0],
        "caption": example.phrases[0],
        "frames_idx": [frame + first for frame in window.frames],
        "valid_indices": example.target_frames.tolist(),
        "box": inclusive_box(mask),
        "mask": mask_facts(mask),
        "orig_size": list(example.frames.shape[-2:]),
        "valid": [int(mask.any())],
    }
    return {key: value for key, value in entry.items() if key in keys or key not in ("orig_size", "valid")}


def run_mevis(root: Path, expected: dict[str, Any]) -> None:
    for split, wanted in expected["splits"].items():
        data = open_dataset("mevis", split=split, root=root)
        if "jobs" in wanted:
            jobs = video_items.evaluation_jobs(data)
            got = [[video.name, said.id, said.phrase, list(video.frames)] for video, said in jobs]
            same(got, wanted["jobs"], f"jobs {split}")
            assert all(example.masks is None for example in data)
            continue
        got = [
            _moving(data, video, row, frame)
            for video in data.videos
            for row in range(len(video.expressions))
            for frame in range(len(video.frames))
        ]
        same(got, wanted["single_frames"], f"single frames {split}")
        key, length = _told_length(wanted, "clip_starts_with_", "_frames")
        starts = video_items.clip_starts(data, length)
        got = [
            [data.videos[i.video].name, data.videos[i.video].expressions[i.expression].phrase, i.frames[0]]
            for i in starts
        ]
        same(got, wanted[key], key)
        for index, example in enumerate(data):
            assert torch.equal(example.masks, data.masks(index))


def _moving(data, video, row: int, frame: int) -> dict[str, Any]:
    said = video.expressions[row]
    mask = data.read_masks(video, [row], [frame])[0, 0]
    entry = {
        "video": video.name,
        "exp": said.phrase,
        "anno_id": list(said.masks),
        "frame": video.frames[frame],
    }
    if not mask.any():
        return entry | {"valid": 0}
    numbers, counts = np.unique(data.read_counts(video, [row], [frame])[0, 0].numpy(), return_counts=True)
    return entry | {
        "valid": 1,
        "caption": squeeze(said.phrase),
        "obj_id": [int(number) for number in said.objects],
        "box": inclusive_box(mask),
        "union_mask": mask_facts(mask),
        "summed_mask_values": {str(n): int(c) for n, c in zip(numbers, counts, strict=True)},
    }
