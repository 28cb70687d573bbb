"""Checks of A2D-Sentences and JHMDB-Sentences: lists, masks of single frames, and the videos around them."""

from __future__ import annotations

from pathlib import Path

from refseg.data.catalog import Place, open_place
from refseg.data.dataset import ReadOptions
from refseg.data.doctor.files import Seen, ToSee
from refseg.data.doctor.findings import DoctorReport, Progress, report_to, with_progress
from refseg.data.doctor.image_sets import check_counts
from refseg.data.published import Counts
from refseg.data.readers.a2d import A2D, instances_folder, raw_samples, read_h5, read_queries, samples_of
from refseg.data.readers.jhmdb import JHMDB, read_mat
from refseg.data.readers.sparse_video_set import LabelledFrames, Sample
from refseg.errors import InvalidInput
from refseg.media.video import count_frames
from refseg.structures import Size


def check_a2d(report: DoctorReport, place: Place, *, is_quick: bool, watch: Progress) -> None:
    """Both splits, from the raw files; the published lists beside them."""
    found = {}
    for split in place.facts.splits:
        try:
            data = open_place(
                place, split=split, count=None, options=ReadOptions(), on_problem=report_to(report)
            )
        except InvalidInput as error:
            report.add("file", str(error))
            continue
        assert isinstance(data, A2D)
        _compare_lists(report, place.folder, split)
        queries = {(s.video, s.instance, s.phrase) for s in data.samples}
        found[split] = Counts(len({s.video for s in data.samples}), None, len(queries))
        _check_samples(report, place, data, watch)
        _check_lengths(report, data, is_quick=is_quick, watch=watch)
    check_counts(report, place.facts, found)
    _tell_skipped(report, place.folder)


def _compare_lists(report: DoctorReport, folder: Path, split: str) -> None:
    path = folder / f"a2d_sentences_single_frame_{split}_annotations.json"
    if not path.is_file():
        return
    try:
        listed, raw = (read(folder, split, _ignore_reported) for read in (samples_of, raw_samples))
    except InvalidInput as error:
        report.add("file", str(error))
        return
    if listed != raw:
        place = next(
            (n for n, (a, b) in enumerate(zip(listed, raw, strict=False)) if a != b),
            min(len(listed), len(raw)),
        )
        report.add(
            "list-differs",
            f"{path.name}, from entry {place} on ({len(listed)} entries, {len(raw)} from the raw files)",
        )


def _check_samples(report: DoctorReport, place: Place, data: LabelledFrames, watch: Progress) -> None:
    unusable: set[Path] = set()  # files are told once
    for sample in with_progress(data.samples, f"samples of {data.split}", len(data.samples), watch):
        report.looked("samples")
        if not sample.phrase.strip():
            report.add("phrase-empty", sample.id)
        path = data.mask_path(sample)
        if path in unusable:
            continue
        try:
            mask = data.read_mask(sample)
        except InvalidInput as error:
            unusable.add(path)
            if path.is_file():
                report.add("mask-damaged", f"{sample.id}: {error}")
            else:
                report.add("mask-missing", str(path.relative_to(place.folder)))
            continue
        if not mask.any():
            report.add("mask-empty", sample.id)


def _check_lengths(report: DoctorReport, data: A2D, *, is_quick: bool, watch: Progress) -> None:
    last = _last_frames(data)
    for video, frame in with_progress(last.items(), f"videos of {data.split}", len(last), watch):
        report.looked("videos")
        if not data.video_path(video).is_file():
            report.add("video-missing", f"{video}.mp4")
            continue
        if is_quick:
            continue
        try:
            length = count_frames(data.video_path(video))
        except InvalidInput as error:
            report.add("video-missing", str(error))
            continue
        listed = data.listed[video].frames if video in data.listed else None
        if length < frame:
            report.add("video-length", f"{video}.mp4: {length} frames, and frame {frame} is annotated")
        elif listed is not None and listed != length:
            report.add("video-longer", f"{video}.mp4: {length} frames for {listed}")


def _ignore_reported(error: InvalidInput) -> None:
    """Records that cannot be used were told when the data set was opened."""
    del error


def _last_frames(data: LabelledFrames) -> dict[str, int]:
    last: dict[str, int] = {}
    for sample in data.samples:
        last[sample.video] = max(last.get(sample.video, 0), sample.frame)
    return last


def _tell_skipped(report: DoctorReport, folder: Path) -> None:
    """Rows that the published code leaves out, and frames that do not show the instance."""
    for number, (video, instance, _) in enumerate(read_queries(folder, _ignore_reported), start=2):
        if not instance.isdecimal():
            report.add("row-skipped", f"a2d_annotation.txt line {number}: instance {instance!r} of {video}")
    for path in sorted(instances_folder(folder).glob("*/*.h5")):
        report.looked("annotations of frames")
        try:
            read_h5(path)
        except InvalidInput as error:
            report.add("mask-damaged", str(error))


def check_jhmdb(report: DoctorReport, place: Place, *, is_quick: bool, watch: Progress) -> None:
    """The published list, its pictures and masks."""
    try:
        data = open_place(
            place, split="test", count=None, options=ReadOptions(), on_problem=report_to(report)
        )
    except InvalidInput as error:
        report.add("file", str(error))
        return
    assert isinstance(data, JHMDB)
    _check_samples(report, place, data, watch)
    found = Counts(len(_last_frames(data)), None, len({(s.video, s.phrase) for s in data.samples}))
    check_counts(report, place.facts, {"test": found})
    seen = Seen()
    firsts = {sample.video: sample for sample in reversed(data.samples)}
    for sample in with_progress(firsts.values(), "videos", len(firsts), watch):
        report.looked("videos")
        _check_pictures(report, data, sample, seen, is_quick=is_quick)


def _check_pictures(report: DoctorReport, data: JHMDB, sample: Sample, seen: Seen, *, is_quick: bool) -> None:
    try:
        masks = read_mat(data.mask_path(sample))
    except InvalidInput:  # told with its samples
        _look_at(report, data, sample, seen, size=None, is_quick=is_quick)
        return
    if masks.shape[2] < sample.masks:
        report.add(
            "mask-missing", f"{sample.video}: {masks.shape[2]} masks, and the list speaks of {sample.masks}"
        )
    size = (int(masks.shape[0]), int(masks.shape[1]))
    _look_at(report, data, sample, seen, size=size, is_quick=is_quick)


def _look_at(
    report: DoctorReport, data: JHMDB, sample: Sample, seen: Seen, *, size: Size | None, is_quick: bool
) -> None:
    for path in data.frame_paths(sample, range(sample.masks)):
        seen.look(report, ToSee(path, size, f"{sample.video}/{path.name}"), is_quick=is_quick)
