"""A full check of a phrase file: every picture opened, every mask drawn, everything that is wrong told with its line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from refseg.data.formats.phrase_line import PhraseLine, parse_line
from refseg.data.readers.phrase_file import FileFinder, numbered_lines, read_frames
from refseg.errors import InvalidInput


@dataclass(frozen=True, slots=True, order=True)
class LineFinding:
    """Something to look at, and where."""

    line: int
    message: str
    is_error: bool = True  # False: the file can be used, and something in it is surprising


@dataclass(slots=True)
class PhraseFileReport:
    """What a file holds, and what is wrong with it."""

    pictures: int = 0
    clips: int = 0
    frames: int = 0
    phrases: int = 0
    no_target: int = 0
    splits: Counter[str] = field(default_factory=Counter)  # phrases of each; "" = names none
    registers: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    mask_shares: list[float] = field(
        default_factory=list
    )  # of each drawn mask: its share of the clip's pixels
    findings: list[LineFinding] = field(default_factory=list)  # in the order of lines

    @property
    def errors(self) -> list[LineFinding]:
        """The findings that make a line unusable."""
        return [finding for finding in self.findings if finding.is_error]


def check_phrase_file(
    path: Path, *, root: Path | None = None, on_clips: Callable[[int], Callable[[int], None]] | None = None
) -> PhraseFileReport:
    """Reads everything that a phrase file names.

    Args:
        root: the folder that paths start from; None is the folder of the file.
        on_clips: called with the number of pictures and clips; what it returns is called with the number of each that
            is checked.

    Raises:
        InvalidInput: if the file itself cannot be read, or holds no line.
    """
    report, folder = PhraseFileReport(), root if root is not None else path.parent
    clips = _parse_all(path, FileFinder(folder), report)
    if not report.phrases and not report.findings:
        raise InvalidInput(f"{path} holds no phrase; write one JSON line for each")
    _note_leaks(clips, report)
    step = on_clips(len(clips)) if on_clips is not None else None
    for number, (paths, lines) in enumerate(clips.items(), start=1):
        _check_clip(folder, paths, lines, report)
        if step is not None:
            step(number)
    report.findings.sort()
    return report


_Clips = dict[tuple[str, ...], list[tuple[int, PhraseLine]]]


def _parse_all(path: Path, finder: FileFinder, report: PhraseFileReport) -> _Clips:
    """The lines that can be read, by their frames."""
    clips: _Clips = {}
    ids: dict[str, int] = {}
    for number, _, text in numbered_lines(path):
        try:
            line = parse_line(text)
            report.phrases += 1
            _count(line, report)
            finder.check(line)
        except InvalidInput as error:
            report.findings.append(LineFinding(number, str(error)))
            continue
        if line.id is not None and ids.setdefault(line.id, number) != number:
            report.findings.append(
                LineFinding(number, f"the id {line.id!r} stands on line {ids[line.id]} too", False)
            )
        clips.setdefault(line.frames, []).append((number, line))
    return clips


def _count(line: PhraseLine, report: PhraseFileReport) -> None:
    report.no_target += line.masks is None
    report.splits[line.split or ""] += 1
    report.registers[line.register or ""] += 1
    report.categories[line.category or ""] += 1


def _note_leaks(clips: _Clips, report: PhraseFileReport) -> None:
    """Notes frames that stand in two splits: what is measured there may have been learnt."""
    split_of: dict[str, str | None] = {}
    for paths, lines in clips.items():
        for number, line in lines:
            other = next((p for p in paths if split_of.setdefault(p, line.split) != line.split), None)
            if other is not None:
                message = (
                    f"{other} is in split {line.split!r} here and in {split_of[other]!r} on another line"
                )
                report.findings.append(LineFinding(number, message, False))


def _check_clip(
    root: Path, paths: tuple[str, ...], lines: list[tuple[int, PhraseLine]], report: PhraseFileReport
) -> None:
    try:
        frames = read_frames(root, paths)
    except InvalidInput as error:
        report.findings.append(LineFinding(lines[0][0], str(error)))
        return
    report.frames += len(frames)
    report.pictures += len(frames) == 1
    report.clips += len(frames) > 1
    said: dict[str, int] = {}
    for number, line in lines:
        first = said.setdefault(line.phrase.strip().lower(), number)
        if first != number:
            message = f"the phrase {line.phrase!r} is asked of {paths[0]} on line {first} too"
            report.findings.append(LineFinding(number, message, False))
        _check_mask(root, frames, number, line, report)


def _check_mask(root: Path, frames: Tensor, number: int, line: PhraseLine, report: PhraseFileReport) -> None:
    try:
        masks = line.read_masks(root, (frames.shape[-2], frames.shape[-1]))
    except InvalidInput as error:
        report.findings.append(LineFinding(number, str(error)))
        return
    if line.masks is not None:
        share = float(masks.float().mean())
        report.mask_shares.append(share)
        if share == 1:
            report.findings.append(
                LineFinding(number, "the mask covers the whole picture; is it the right way round?", False)
            )
