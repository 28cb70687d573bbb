"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from refseg.data.doctor.findings import CHECKS, DoctorFinding, DoctorReport

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2430; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.error, .wrong { color: #a11; } .warning { color: #950; } .note, .fine { color: #265; }
li { margin: .5rem 0; } .where { color: #555; } code { background: #f2f3f5; padding: 0 .2rem; }
@media (prefers-color-scheme: dark) { body { background: #14171c; color: #dde; } code { background: #262b33; }
  .error, .wrong { color: #f77; } .warning { color: #fb6; } .note, .fine { color: #7ca; } .where { color: #99a; } }
"""


def page(reports: Sequence[DoctorReport]) -> str:
    """The HTML of several reports."""
    title = ", ".join(report.title for report in reports)
    body = "\n".join(_section(report) for report in reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data check: {escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _section(report: DoctorReport) -> str:
    parts = [f"<h1>{escape(report.title)}</h1>", f'<p class="where"><code>{escape(report.folder)}</code></p>']
    looked = ", ".join(f"{count:,} {escape(what)}" for what, count in report.looked_at.items())
    parts.append(f"<p>{_verdict(report)} Looked at: {looked or 'nothing'}.</p>")
    if report.findings:
        parts.append("<h2>Findings</h2><ul>" + "".join(map(_item, report.findings)) + "</ul>")
    if report.mended:
        removed = "".join(f"<li><code>{escape(path)}</code></li>" for path in report.mended)
        parts.append(f"<h2>Removed</h2><ul>{removed}</ul>")
    if report.counts:
        parts.append(_counts(report))
    for name, lines in (("Where to get it", report.sources), ("Layout", report.layout)):
        if lines:
            parts.append(
                f"<h2>{name}</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
            )
    if report.licence:
        parts.append(f"<p>Licence: {escape(report.licence)}</p>")
    return "\n".join(parts)


def _verdict(report: DoctorReport) -> str:
    if report.errors:
        return f'<strong class="error">{report.errors} of the findings would stop a run.</strong>'
    return '<strong class="fine">Nothing was found that would stop a run.</strong>'


def _item(finding: DoctorFinding) -> str:
    told = CHECKS[finding.check]
    examples = "".join(f"<li>{escape(example)}</li>" for example in finding.examples)
    more = finding.count - len(finding.examples)
    rest = f"<li>and {more:,} more</li>" if more else ""
    return (
        f'<li><span class="{finding.level}">{finding.level}</span>: {escape(told.what)}: {finding.count:,}.<br>'
        f'To mend it: {escape(told.remedy)}.<ul class="where">{examples}{rest}</ul></li>'
    )


def _counts(report: DoctorReport) -> str:
    rows = "".join(
        f'<tr><td>{escape(row["split"])}</td><td>{escape(row["what"])}</td><td class="n">{row["found"]:,}</td>'
        f'<td class="n {"wrong" if row["published"] not in (None, row["found"]) else ""}">{_format_count(row["published"])}</td></tr>'
        for row in report.counts
    )
    head = "<tr><th>split</th><th>of</th><th>found</th><th>published</th></tr>"
    return f"<h2>Counts</h2><table>{head}{rows}</table>"


def _format_count(count: int | None) -> str:
    return "not told" if count is None else f"{count:,}"
