"""`refseg data check`: every line of a phrase file, its images and masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli.data.group import verbs
from refseg.cli.progress import progress_bars

if TYPE_CHECKING:
    from refseg.cli.progress import Bars
    from refseg.data.doctor.phrase_file import PhraseFileReport


_MOST_FINDINGS = 20


@verbs.command()
def check(
    *,
    file: Annotated[
        Path, typer.Argument(help="A .jsonl file in the open form, or the folder that holds it.")
    ],
    root: Annotated[
        Path | None, typer.Option(help="The folder that paths start from; default: that of the file.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Print every finding, however many.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Open every picture and draw every mask of a phrase file; tell what is wrong, line by line.

    Exit code 0: the file can be used. 1: some lines cannot. 2: the file itself cannot be read.
    """
    from refseg.data.catalog import find_phrase_file
    from refseg.data.doctor.phrase_file import check_phrase_file

    path = find_phrase_file(file)
    with progress_bars() as bars:
        report = check_phrase_file(
            path, root=root, on_clips=lambda total: count_steps(bars, "pictures and clips", total)
        )
    print(json.dumps(_record(report), ensure_ascii=False) if as_json else _text(path, report, show_all))
    if report.errors:
        raise typer.Exit(1)


def count_steps(bars: Bars, what: str, total: int) -> Callable[[int], None]:
    """A function that moves a bar on by one, whatever number it is told."""
    steps = bars.track(range(total), what, total)

    def step(_: int) -> None:
        next(steps, None)

    return step


def _record(report: PhraseFileReport) -> dict[str, Any]:
    names = ("pictures", "clips", "frames", "phrases", "no_target", "splits", "registers", "categories")
    findings = [
        {"line": f.line, "kind": "error" if f.is_error else "note", "message": f.message}
        for f in report.findings
    ]
    return {name: getattr(report, name) for name in names} | {"findings": findings}


def _text(path: Path, report: PhraseFileReport, show_all: bool) -> str:
    lines = [
        f"{path}: {_number(report.phrases, 'phrase')} ({report.no_target} without a target) about "
        f"{_number(report.pictures, 'picture')} and {_number(report.clips, 'clip')}, {_number(report.frames, 'frame')}"
    ]
    for title, counts in (
        ("splits", report.splits),
        ("registers", report.registers),
        ("categories", report.categories),
    ):
        lines += [f"  {title}: {_counted(counts)}"] if set(counts) - {""} else []
    if report.mask_shares:
        shares = sorted(report.mask_shares)
        low, middle, high = (shares[len(shares) * q // 10] for q in (1, 5, 9))
        lines.append(
            f"  masks cover {low:.1%}, {middle:.1%}, {high:.1%} of the picture (10th, 50th, 90th percentile)"
        )
    shown = report.findings if show_all else report.findings[:_MOST_FINDINGS]
    lines += [f"  line {f.line}: {'' if f.is_error else 'note: '}{f.message}" for f in shown]
    if len(shown) < len(report.findings):
        lines.append(f"  ... and {len(report.findings) - len(shown)} more (--all prints them)")
    num_errors = len(report.errors)
    lines.append(f"{_number(num_errors, 'error')}, {_number(len(report.findings) - num_errors, 'note')}")
    return "\n".join(lines)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _counted(counts: Counter[str], most: int = 12) -> str:
    parts = [f"{name or '(none)'} {number}" for name, number in counts.most_common(most)]
    return ", ".join(parts) + (f" and {len(counts) - most} more" if len(counts) > most else "")
