"""What docs/datasets.md tells of published data sets is what the code knows."""

import re
from dataclasses import fields
from pathlib import Path

from refseg.data.dataset import ReadOptions
from refseg.data.published import ALIASES, PUBLISHED

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()


def told(count):
    return "-" if count is None else f"{count:,}"


def test_the_table_holds_every_split_with_its_counts():
    rows = re.findall(
        r"^\| `([\w+-]+)` \| (\w+) \| (\S+) \| (\S+) \| (\S+)(?: \(about\))? \|$", PAGE, re.MULTILINE
    )
    known = [
        (data.name, split, told(counts.clips), told(counts.objects), told(counts.phrases))
        for data in PUBLISHED.values()
        for split, counts in data.splits.items()
    ]
    assert rows == known


def test_every_licence_alias_and_option_is_named():
    for data in PUBLISHED.values():
        assert data.licence in PAGE
    assert all(f"`{alias}`" in PAGE for alias in ALIASES if alias not in ("refcoco+-unc", "refcocoplus"))
    assert {option.name for option in fields(ReadOptions)} <= set(
        re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    )


def test_splits_add_up_to_the_published_totals():
    for data in PUBLISHED.values():
        for name in ("objects", "phrases", "clips"):
            parts = [getattr(counts, name) for counts in data.splits.values()]
            total = getattr(data.total, name)
            # Splits by object share pictures; of rough counts and parts that nobody counted nothing adds up.
            if total is None or None in parts or data.total.is_rough or data.name == "ref-youtube-vos":
                continue
            assert sum(parts) == total, (data.name, name)
