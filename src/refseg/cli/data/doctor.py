"""`refseg data doctor`: a full check of a data folder, with the way to mend each finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli.data.group import verbs
from refseg.cli.progress import progress_bars

if TYPE_CHECKING:
    from refseg.cli.progress import Bars
    from refseg.data.doctor.findings import DoctorReport, Progress, Step


@verbs.command()
def doctor(
    *,
    data: Annotated[
        str,
        typer.Argument(metavar="DIR", help="The folder of a data set, one that holds several, or a name."),
    ],
    root: Annotated[Path | None, typer.Option(help="With a name: the folder that holds its folder.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read headers of pictures only, decode no video.")
    ] = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Remove desktop files and broken index files; nothing else is changed."),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find what is missing, damaged or surprising in a data set before a run does.

    Recognises the data set, compares every count with the published ones, opens every picture, draws every mask, and says
    of each finding how to mend it. Exit code 0: nothing would stop a run. 1: something would. 2: the folder is not known.
    """
    from refseg.data.doctor.html import page
    from refseg.errors import InvalidInput
    from refseg.files import write_whole_text

    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(
            f"the report is an HTML page, and {html} has another suffix; give a name that ends in .html"
        )
    with progress_bars() as bars:
        reports = _reports(data, root, is_quick=quick, fix=fix, watch=_watch(bars))
    if html is not None:
        write_whole_text(html, page(reports))
    if as_json:
        print(json.dumps({"reports": [report.to_json() for report in reports]}, ensure_ascii=False))
    else:
        print("\n\n".join(_text(report) for report in reports))
    if any(report.errors for report in reports):
        raise typer.Exit(1)


def _reports(
    data: str, root: Path | None, *, is_quick: bool, fix: bool, watch: Progress
) -> list[DoctorReport]:
    from refseg.data.doctor.examine import examine, examine_folder, mend, places_in

    places = places_in(data, root)
    reports = [examine(place, is_quick=is_quick, watch=watch) for place in places]
    if not places:
        reports = [examine_folder(Path(data), is_quick=is_quick, watch=watch)]
    for report in reports if fix else ():
        mend(report)
    return reports


def _watch(bars: Bars) -> Progress:
    def start(what: str, total: int) -> Step:
        steps = bars.track(range(total), what, total)

        def step() -> None:
            next(steps, None)

        return step

    return start


def _text(report: DoctorReport) -> str:
    looked = ", ".join(f"{count:,} {what}" for what, count in report.looked_at.items())
    lines = [f"{report.title} in {report.folder}: looked at {looked or 'nothing'}"]
    for split in dict.fromkeys(row["split"] for row in report.counts):
        rows = [row for row in report.counts if row["split"] == split]
        lines.append(
            f"  {split}: " + ", ".join(_count(row["found"], row["what"], row["published"]) for row in rows)
        )
    lines += [f"  {finding.level}: {finding.sentence()}" for finding in report.findings]
    lines += [f"  removed: {path}" for path in report.mended]
    if report.errors and report.sources:
        lines += ["  sources:", *(f"    {source}" for source in report.sources)]
        lines += ["  layout:", *(f"    {place}" for place in report.layout)]
    lines.append(
        f"{report.errors} of {len(report.findings)} findings would stop a run"
        if report.findings
        else "nothing was found"
    )
    return "\n".join(lines)


def _count(found: int, what: str, published: int | None) -> str:
    if published is None:
        return f"{found:,} {what}"
    return (
        f"{found:,} {what} as published"
        if found == published
        else f"{found:,} {what} (published: {published:,})"
    )
