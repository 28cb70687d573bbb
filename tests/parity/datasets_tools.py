"""How the cases of data sets describe masks, and how answers are compared."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from torch import Tensor


def mask_facts(mask: Tensor) -> dict[str, Any]:
    """Area, CRC-32, shape and inclusive box of a bool mask [H, W]."""
    values = np.ascontiguousarray(mask.numpy(), dtype=np.uint8)
    rows, columns = np.nonzero(values)
    box = [int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())] if len(rows) else None
    return {
        "area": int(values.sum()),
        "crc32": zlib.crc32(values.tobytes()),
        "shape": list(values.shape),
        "box_xyxy": box,
    }


def same(got: Any, wanted: Any, where: str) -> None:
    """Fails at the first place where two values differ; keys that only tell the reader something are passed over."""
    if isinstance(wanted, dict):
        assert isinstance(got, dict), f"{where}: {got!r} is no mapping"
        keys = {key for key in wanted if key not in ("note", "notes", "what", "case")}
        assert set(got) == keys, f"{where}: keys {sorted(set(got) ^ keys)}"
        for key in keys:
            same(got[key], wanted[key], f"{where} / {key}")
    elif isinstance(wanted, list):
        got = list(got) if isinstance(got, tuple) else got
        assert isinstance(got, list) and len(got) == len(wanted), (
            f"{where}: {_short(got)} for {_short(wanted)}"
        )
        for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
            same(one, other, f"{where} [{number}]")
    else:
        assert got == wanted and isinstance(got, bool) == isinstance(wanted, bool), (
            f"{where}: {got!r}, not {wanted!r}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."
