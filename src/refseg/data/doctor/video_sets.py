"""Checks of video data sets whose frames are pictures: Ref-YouTube-VOS, Ref-DAVIS17, MeViS."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from refseg.data.catalog import Place, davis_is_raw, open_place
from refseg.data.dataset import ReadOptions
from refseg.data.doctor.files import Seen, ToSee
from refseg.data.doctor.findings import DoctorReport, Progress, report_to, with_progress
from refseg.data.doctor.image_sets import check_counts
from refseg.data.formats.masks import read_label_png
from refseg.data.published import Counts
from refseg.data.readers.mevis import MeViS
from refseg.data.readers.ref_davis import RefDavis
from refseg.data.readers.ref_youtube_vos import RefYouTubeVOS, object_number, videos_of
from refseg.data.readers.video_set import Video, VideoPhrases
from refseg.errors import InvalidInput, UnknownName


def check_videos(report: DoctorReport, place: Place, *, is_quick: bool, watch: Progress) -> None:
    """Every split that is there."""
    found: dict[str, Counts] = {}
    for split in _splits(place):
        try:
            data = open_place(
                place, split=split, count=None, options=ReadOptions(), on_problem=report_to(report)
            )
        except (InvalidInput, UnknownName) as error:
            report.add("file", str(error))
            continue
        objects = {(v.name, o) for v in data.videos for e in v.expressions for o in e.objects}
        phrases = sum(len(video.expressions) for video in data.videos)
        found[split] = Counts(len(data.videos), len(objects) or None, phrases)
        _check_split(report, data, is_quick=is_quick, watch=watch)
    check_counts(report, place.facts, found)
    if place.facts.form == "youtube":
        _check_test(report, place.folder)


def _splits(place: Place) -> list[str]:
    folder, names = place.folder, list(place.facts.splits)
    if place.facts.form == "davis" and davis_is_raw(folder):
        lists = {"train": "train", "valid": "val"}
        return [n for n in names if (folder / "DAVIS" / "ImageSets" / "2017" / f"{lists[n]}.txt").is_file()]
    if place.facts.form == "mevis":
        return [name for name in names if (folder / name / "meta_expressions.json").is_file()]
    return [
        name for name in names if (folder / "meta_expressions" / name / "meta_expressions.json").is_file()
    ]


def _check_test(report: DoctorReport, folder: Path) -> None:
    """Videos that the file of valid lists and that belong to test."""
    path = folder / "meta_expressions" / "test" / "meta_expressions.json"
    if not path.is_file() or not (folder / "meta_expressions" / "valid" / "meta_expressions.json").is_file():
        return
    from refseg.data.readers.video_set import read_expressions

    listed = read_expressions(folder / "meta_expressions" / "valid" / "meta_expressions.json")
    kept = {video.name for video in videos_of(folder, "valid")}
    for video in listed:
        if video.name not in kept:
            report.add("test-listed", video.name)


def _check_split(report: DoctorReport, data: VideoPhrases, *, is_quick: bool, watch: Progress) -> None:
    for video in with_progress(data.videos, f"videos of {data.split}", len(data.videos), watch):
        report.looked("videos")
        sizes = _check_frames(report, data, video, is_quick=is_quick)
        for expression in video.expressions:
            report.looked("phrases")
            if not expression.phrase.strip():
                report.add("phrase-empty", f"{video.name} expression {expression.id}")
        if isinstance(data, MeViS):
            _check_series(report, data, video, sizes)
        else:
            _check_labels(report, data, video, sizes)


def _check_frames(
    report: DoctorReport, data: VideoPhrases, video: Video, *, is_quick: bool
) -> dict[str, tuple[int, int] | None]:
    """Sizes of the frames of a video by name; None where a frame cannot be read."""
    paths = {frame: data.frame_path(video, frame) for frame in video.frames}
    parents = {path.parent for path in paths.values()}
    if not any(parent.is_dir() for parent in parents):
        report.add("video-missing", f"{data.split}/{video.name}")
        return {}
    seen = Seen()
    sizes = {
        frame: seen.look(
            report, ToSee(path, None, f"{data.split}/{video.name}/{path.name}"), is_quick=is_quick
        )
        for frame, path in paths.items()
    }
    usual = Counter(size for size in sizes.values() if size is not None).most_common(1)
    for frame, size in sizes.items():
        if size is not None and size != usual[0][0]:
            report.add("picture-size", f"{data.split}/{video.name}/{frame} differs from the other frames")
    return sizes


def _check_labels(
    report: DoctorReport, data: VideoPhrases, video: Video, sizes: dict[str, tuple[int, int] | None]
) -> None:
    """Label pictures: there, whole, of the size of the frame, and with every object that somebody speaks of."""
    folder = _mask_folder(data, video)
    if folder is None:
        return
    held: set[int] = set()
    first: set[int] = set()
    for number, frame in enumerate(video.frames):
        title = f"{data.split}/{video.name}/{frame}.png"
        if not (folder / f"{frame}.png").is_file():
            report.add("mask-missing", title)
            continue
        report.looked("masks")
        try:
            labels = read_label_png(folder / f"{frame}.png")
        except InvalidInput as error:
            report.add("mask-damaged", str(error))
            continue
        if sizes.get(frame) not in (None, labels.shape):
            report.add("mask-size", f"{title} {labels.shape[1]}x{labels.shape[0]}")
        values = set(torch.from_numpy(labels).unique().tolist())
        held |= values
        first = values if number == 0 else first
    _check_objects(report, data, video, held, first)


def _check_objects(
    report: DoctorReport, data: VideoPhrases, video: Video, held: set[int], first: set[int]
) -> None:
    for objects in dict.fromkeys(expression.objects for expression in video.expressions):
        expression = next(e for e in video.expressions if e.objects == objects)
        try:
            number = object_number(video, expression)
        except InvalidInput as error:
            report.add("record", f"{data.split}/{video.name}: {error}")
            continue
        title = f"{data.split}/{video.name} object {number}"
        if number not in held:
            report.add("object-absent", title)
        elif isinstance(data, RefDavis) and number not in first:
            report.add("object-later", title)
        if data.label(video, expression) < 0:
            report.add("category-missing", title)


def _mask_folder(data: VideoPhrases, video: Video) -> Path | None:
    if isinstance(data, RefDavis):
        return data.mask_path(video.name, video.frames[0]).parent
    if isinstance(data, RefYouTubeVOS):
        folder = data.folder / data.split / "Annotations"
        # Splits that are measured on a server come without masks.
        return folder / video.name if folder.is_dir() or data.split == "train" else None
    return None


def _check_series(
    report: DoctorReport, data: MeViS, video: Video, sizes: dict[str, tuple[int, int] | None]
) -> None:
    if data.series is None:
        if data.split in ("train", "valid_u"):
            report.add("mask-missing", f"{data.split}/mask_dict.json")
        return
    for row, expression in enumerate(video.expressions):
        report.looked("masks", len(video.frames))
        try:
            masks = data.read_masks(video, [row], range(len(video.frames)))
        except InvalidInput as error:
            report.add("mask-damaged", f"{data.split}/{video.name} expression {expression.id}: {error}")
            continue
        assert masks is not None
        if not masks.any():
            report.add("object-absent", f"{data.split}/{video.name} expression {expression.id}")
        wanted = _one(sizes)
        if wanted not in (None, tuple(masks.shape[-2:])):
            report.add("mask-size", f"{data.split}/{video.name} expression {expression.id}")


def _one(sizes: dict[str, tuple[int, int] | None]) -> tuple[int, int] | None:
    return next((size for size in sizes.values() if size is not None), None)
