"""An evaluation's record as the `[[checkpoint.measured]]` tables of a result card, so that nobody types a number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

OURS = "source"  # the protocol whose numbers stand by register
METRICS = ("mIoU", "oIoU", "P@0.5", "P@0.7", "J", "kept", "refused")


def card_tables(record: dict[str, Any]) -> str:
    """TOML tables, one for each metric of each register that was measured; shares become percent.

    Args:
        record: what `evaluation.table.result_record` returns, and `refseg evaluate --out` writes.
    """
    source, machine = record["source"], record["machine"]
    shared = {
        "dataset": source["name"] + _kind(record["data"]),
        "split": source.get("split") or "all",
        "protocol": _protocol(record),
        "version": machine["refseg"],
    }
    date, where = machine["date"][:10], f"{machine['processor']}, {machine['threads']} threads"
    has_clips = record["data"]["frames"] > record["data"]["examples"]
    numbers = [(shared, *pair) for pair in _numbers(record["scores"], has_clips=has_clips)]
    for name, entry in record.get("protocols", {}).items():
        if name != OURS:
            ruler = shared | {"protocol": f"{name}: {entry['means']}; {record['data']['phrases']} phrases"}
            numbers += [(ruler, *pair) for pair in _rounded(entry["scores"])]
    numbers += [(shared, *pair) for pair in _calibration(record.get("calibration"))]
    tables = []
    for facts, metric, value in numbers:
        pairs = [*facts.items(), ("metric", metric), ("machine", where)]
        lines = [f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in pairs]
        tables.append("\n".join(["[[checkpoint.measured]]", *lines, f"value = {value}", f"date = {date}"]))
    return "\n\n".join(tables)


def _calibration(found: dict[str, Any] | None) -> Iterator[tuple[str, float]]:
    """Errors in percent; the Brier score is a mean square and no share."""
    for claim, entry in (found or {}).items():
        yield f"ECE {claim} ({len(entry['bins'])} bins)", round(100 * entry["ece"], 2)
        yield f"adaptive ECE {claim}", round(100 * entry["adaptive_ece"], 2)
        yield f"Brier {claim}", round(entry["brier"], 4)


def _rounded(scores: dict[str, float | None]) -> Iterator[tuple[str, float]]:
    """Metrics of a protocol that were measured, in percent with two digits."""
    for metric, value in scores.items():
        if value is not None:
            yield metric, round(100 * value, 2)


def _kind(data: dict[str, Any]) -> str:
    """What sets a measurement apart from the ordinary one of the same data."""
    clips = ", clips" if data["frames"] > data["examples"] else ""
    return clips + (", control" if data["shuffled_phrases"] else "")


def _protocol(record: dict[str, Any]) -> str:
    data = record["data"]
    asked = f"{data['examples']} examples, {data['phrases']} phrases, masks at source size, {record['dtype']}"
    control = "; control: every phrase asked of another example" if data["shuffled_phrases"] else ""
    return asked + control


def _numbers(scores: dict[str, dict[str, Any]], *, has_clips: bool) -> Iterator[tuple[str, float]]:
    """Metric and register, and the value in percent with one digit."""
    for register, score in scores.items():
        for metric in METRICS:
            if score[metric] is not None and (metric != "J" or has_clips):
                yield f"{metric} {register}", round(100 * score[metric], 1)
