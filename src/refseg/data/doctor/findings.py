"""What the doctor can find, in words: one table of checks, each with its sentence and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
Step = Callable[[], None]
Progress = Callable[[str, int], Step]
"""Called with what is looked at and how many there are; what it returns is called for each."""

_MOST_EXAMPLES = 8
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked for. "error": a run would stop there; "warning": its numbers may be wrong; "note": to know."""

    level: Level
    what: str  # comes before the number of cases
    remedy: str
    is_mended: bool = False  # `--fix` mends it


_GET = "download it again from one of the sources below"
CHECKS = {
    "record": Check("error", "records cannot be used", f"get the annotation file again: {_GET}; training can be told to skip and count them"),
    "file": Check("error", "files of annotations are missing or damaged", f"{_GET}, and keep the layout shown below"),
    "count": Check("error", "counts differ from the published ones", f"the annotations are of another release, or incomplete: {_GET}"),
    "count-rough": Check("note", "counts differ from figures that were published without certainty", "nothing need be done"),
    "split-missing": Check("warning", "published splits are not there", f"if you need them, {_GET}"),
    "picture-missing": Check("error", "pictures or frames are missing", "download the pictures (sources below) into one of the folders of the layout"),
    "picture-damaged": Check("error", "pictures or frames are damaged or cut short", "download these again; a transfer was broken off, or the disk was full"),
    "picture-size": Check("error", "pictures or frames have another size than their annotations", "get the pictures of this data set in their own size; resized copies do not fit the masks"),
    "mask-missing": Check("error", "masks are missing", f"{_GET}; frames and masks belong to one release"),
    "mask-damaged": Check("error", "masks are damaged, or hold colours instead of numbers", f"{_GET}, and do not convert the mask pictures"),
    "mask-size": Check("error", "masks have another size than their frames", f"{_GET}; frames and masks belong to one release"),
    "mask-empty": Check("warning", "phrases have a mask without a pixel although something answers to them", "nothing need be done to evaluate as published (they count as empty targets); leave them out of training"),
    "parts-overlap": Check("warning", "objects have parts that overlap", "nothing need be done: refseg takes the union; to reproduce LAVT, LGFormer or VPD, read with masks = \"exactly-one\""),
    "parts-small": Check("note", "polygons have fewer than three points or a number too many", "nothing need be done: they cover no pixel, or their last number is left out"),
    "parts-outside": Check("note", "objects reach beyond their picture", "nothing need be done: they are clipped at its edge"),
    "id-twice": Check("warning", "numbers of records stand there twice", f"results cannot tell such records apart: {_GET}"),
    "phrase-empty": Check("warning", "phrases hold no word", "leave them out of training; evaluation answers them as published"),
    "shared-own": Check("warning", "pictures are both in train and in val or test of this data set", "train with exclude_images_of, naming this data set's own val and test"),
    "shared-other": Check("warning", "training pictures are in val or test of another data set here", "when training on several sets together, name those in exclude_images_of; the examples tell how many"),
    "video-missing": Check("error", "videos are missing or cannot be decoded", "download these videos again"),
    "video-length": Check("error", "videos decode to fewer frames than annotated", "download these videos again, and do not re-encode them"),
    "video-longer": Check("note", "videos decode to another number of frames than listed", "nothing need be done: windows are clipped to what is decoded"),
    "object-absent": Check("warning", "objects are in no frame of their video", "nothing need be done to evaluate; training draws another clip"),
    "object-later": Check("note", "objects appear only after the first frame", "nothing need be done: the published evaluator leaves them out, and so does refseg"),
    "test-listed": Check("note", "videos of valid belong to test", "nothing need be done: refseg takes them out, as the published code does"),
    "category-missing": Check("note", "objects have no category", "only models with a classifier over categories need it; get meta.json if you train one"),
    "list-differs": Check("error", "published lists differ from what the raw files give", f"the lists or the raw files are of another release: {_GET}"),
    "row-skipped": Check("note", "rows are left out as the published code does", "nothing need be done"),
    "line": Check("error", "lines cannot be used", "mend the lines named here; `refseg data check` lists every one"),
    "line-note": Check("note", "lines are surprising", "look at them; `refseg data check` lists every one"),
    "leftover": Check("note", "half-written or damaged index files lie about", "run again with --fix, which removes them; an index is built again when it is needed", True),
    "junk": Check("warning", "files of a desktop system lie among the frames", "run again with --fix, which removes them (._*, .DS_Store, Thumbs.db, desktop.ini)", True),
}  # fmt: skip
"""By name; the name is what JSON reports call it."""


@dataclass(slots=True)
class DoctorFinding:
    """All cases of one check."""

    check: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of what `--fix` may remove

    @property
    def level(self) -> Level:
        """How bad it is."""
        return CHECKS[self.check].level

    def sentence(self) -> str:
        """What was found, where, and how to mend it."""
        told = CHECKS[self.check]
        shown = "; ".join(self.examples)
        more = f"; and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{told.what}: {self.count:,} ({shown}{more}); {told.remedy}."


@dataclass(slots=True)
class DoctorReport:
    """What a folder holds, and what is wrong with it."""

    folder: str
    title: str
    name: str
    sources: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    licence: str = ""
    counts: list[dict[str, Any]] = field(default_factory=list)  # rows: split, what, found, published
    looked_at: dict[str, int] = field(default_factory=dict)
    found: dict[str, DoctorFinding] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)

    def add(self, check: str, example: str, path: Path | None = None) -> None:
        """One case of a check."""
        assert check in CHECKS, check
        finding = self.found.setdefault(check, DoctorFinding(check))
        finding.count += 1
        if len(finding.examples) < _MOST_EXAMPLES:
            finding.examples.append(example)
        if path is not None:
            finding.paths.append(path)

    def looked(self, what: str, count: int = 1) -> None:
        """Counts what was looked at, so that a report without findings tells what it covers."""
        self.looked_at[what] = self.looked_at.get(what, 0) + count

    @property
    def findings(self) -> list[DoctorFinding]:
        """The worst first."""
        return sorted(self.found.values(), key=lambda finding: _LEVELS.index(finding.level))

    @property
    def errors(self) -> int:
        """How many findings would stop a run."""
        return sum(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "folder": self.folder,
            "name": self.name,
            "title": self.title,
            "licence": self.licence,
            "sources": list(self.sources),
            "counts": self.counts,
            "looked_at": self.looked_at,
            "findings": [
                {
                    "check": finding.check,
                    "level": finding.level,
                    "count": finding.count,
                    "examples": finding.examples,
                    "message": finding.sentence(),
                    "remedy": CHECKS[finding.check].remedy,
                }
                for finding in self.findings
            ],
            "mended": self.mended,
        }


def report_to(report: DoctorReport) -> Callable[[Exception], None]:
    """What adds records that cannot be used to a report."""
    return lambda error: report.add("record", str(error))


def no_progress(_what: str, _total: int) -> Step:
    """Watches nothing."""
    return lambda: None


def with_progress(items: Iterable[Any], what: str, total: int, watch: Progress) -> Iterable[Any]:
    """The items one by one, each told to `watch`."""
    step = watch(what, total)
    for item in items:
        yield item
        step()
