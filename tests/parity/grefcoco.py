"""Cases of generalised referring: masks and refusals to scores."""

from __future__ import annotations

import re

from parity.case import Case, Comparison, NotBuilt
from parity.metrics import generalised_values, pixels_of
from refseg.metrics.generalised import Refusable, generalised_scores


def run(case: Case) -> None:
    """Runs a case by what it holds."""
    if "in/pred_no_target" not in case.arrays:
        raise NotBuilt(f"a gRefCOCO case with the arrays {sorted(case.arrays)}")
    arrays = case.arrays
    pixels = pixels_of(arrays["in/pred"].astype(bool), arrays["in/target"].astype(bool))
    decisions = zip(pixels, arrays["in/no_target"], arrays["in/pred_no_target"], strict=True)
    rows = [Refusable(row.intersection, row.union, not t, bool(n)) for row, t, n in decisions]
    values = generalised_values(generalised_scores(rows))
    names = re.findall(r"[\w@.]+", case.manifest["outputs"]["out/values"].partition(":")[2])
    Comparison(case, {"out/values": [values[name] for name in names]}).check()
