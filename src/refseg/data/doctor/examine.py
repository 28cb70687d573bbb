"""The doctor: recognises what a folder holds, checks all of it, and mends what is safe to mend."""

from __future__ import annotations

from pathlib import Path

from refseg.data.catalog import Place, find, recognise
from refseg.data.doctor.files import find_junk
from refseg.data.doctor.findings import DoctorReport, Progress, no_progress, report_to
from refseg.data.doctor.image_sets import as_references, check_references, check_table
from refseg.data.published import ALIASES, COCO_FOLDERS, PUBLISHED, published
from refseg.errors import InvalidInput


def places_in(name_or_folder: str, root: Path | None = None) -> list[Place]:
    """The published data sets that are meant: of a name, or in a folder; none if a folder holds another form.

    Raises:
        InvalidInput: if the name is known and the data set is not there, or the folder is not.
    """
    if name_or_folder.lower() in PUBLISHED or name_or_folder.lower() in ALIASES:
        try:
            return [find(published(name_or_folder), root)]
        except InvalidInput:
            if root is not None or not Path(name_or_folder).is_dir():
                raise  # else the folder here that is called as a data set is meant
    folder = Path(name_or_folder)
    if not folder.exists():
        raise InvalidInput(
            f"there is no folder {folder}; give the folder of a data set, or one of {', '.join(PUBLISHED)}"
        )
    return recognise(folder) if folder.is_dir() else []


def examine(place: Place, *, is_quick: bool = False, watch: Progress = no_progress) -> DoctorReport:
    """What is wrong with a published data set; nothing is written.

    Args:
        place: where it is.
        is_quick: look at the headers of pictures and at the presence of videos, decode none.
        watch: hears of every thing that is looked at.
    """
    from refseg.data.doctor.sparse_video_sets import check_a2d, check_jhmdb
    from refseg.data.doctor.video_sets import check_videos

    facts = place.facts
    report = DoctorReport(
        str(place.folder), facts.title, facts.name, facts.sources, facts.layout, licence=facts.licence
    )
    checks = {"refer": check_references, "grefcoco": check_references, "a2d": check_a2d, "jhmdb": check_jhmdb}
    checks.get(facts.form, check_videos)(report, place, is_quick=is_quick, watch=watch)
    find_junk(report, place.folder)
    return report


def examine_folder(folder: Path, *, is_quick: bool = False, watch: Progress = no_progress) -> DoctorReport:
    """What is wrong with a data set in another form: the open form, the per-sentence COCO form, parquet files.

    Raises:
        InvalidInput: if the folder holds none that is known.
    """
    from refseg.data.readers.coco_style import split_files
    from refseg.data.readers.parquet import parquet_files

    report = DoctorReport(str(folder), folder.absolute().name, folder.absolute().name)
    lines = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    if lines:
        for path in lines:
            _check_lines(report, path)
    elif files := split_files(folder):
        for (_, split), path in files.items():
            _check_sentences(report, path, split, is_quick=is_quick, watch=watch)
    elif found := parquet_files(folder):
        _check_parquet(report, folder, found, is_quick=is_quick, watch=watch)
    else:
        raise InvalidInput(
            f"the folder {folder} holds no data set that is known; `refseg data list` shows the layouts of all that are"
        )
    if folder.is_dir():
        find_junk(report, folder)
    return report


def _check_lines(report: DoctorReport, path: Path) -> None:
    from refseg.data.doctor.phrase_file import check_phrase_file

    try:
        checked = check_phrase_file(path)
    except InvalidInput as error:
        report.add("file", str(error))
        return
    report.looked("phrases", checked.phrases)
    report.looked("pictures", checked.frames)
    for finding in checked.findings:
        report.add(
            "line" if finding.is_error else "line-note", f"{path.name} line {finding.line}: {finding.message}"
        )


def _check_sentences(
    report: DoctorReport, path: Path, split: str, *, is_quick: bool, watch: Progress
) -> None:
    from refseg.data.readers.coco_style import build_coco_form
    from refseg.data.readers.image_set import PictureFolders

    try:
        table = build_coco_form(path, split, on_problem=report_to(report))
    except InvalidInput as error:
        report.add("file", str(error))
        return
    above = path.parent.absolute().parent
    store = PictureFolders([above, above / "train2014", path.parent])
    references = as_references(table)
    report.counts.append({"split": split, "what": "phrases", "found": len(references), "published": None})
    check_table(report, references, store, is_quick=is_quick, watch=watch)


def _check_parquet(
    report: DoctorReport, folder: Path, files: list[Path], *, is_quick: bool, watch: Progress
) -> None:
    from refseg.data.doctor.image_sets import count_splits
    from refseg.data.readers.image_set import PictureFolders
    from refseg.data.readers.parquet import build_parquet

    try:
        references = as_references(build_parquet(files, on_problem=report_to(report)))
    except InvalidInput as error:
        report.add("record", str(error))
        return
    for split, counts in count_splits(references).items():
        report.counts.append({"split": split, "what": "objects", "found": counts.objects, "published": None})
    bases = (folder, folder.absolute().parent)
    store = PictureFolders([base / place for base in bases for place in COCO_FOLDERS])
    check_table(report, references, store, is_quick=is_quick, watch=watch)


def mend(report: DoctorReport) -> None:
    """Removes what the doctor may remove: files of desktop systems, and index files that nobody finished or can read.

    Annotations, pictures and masks are never touched.
    """
    for check in ("junk", "leftover"):
        finding = report.found.pop(check, None)
        for path in finding.paths if finding is not None else ():
            path.unlink(missing_ok=True)
            report.mended.append(str(path))
