"""Contours of masks, and how much of one lies near another: many masks at once, a bit each.

Up to eight masks share a byte a pixel, so one pass over memory serves them all: contours are exclusive ors of neighbours,
and growing by a disk is a union of shifted copies, row by row of the disk. Pixels far from every mask are cut away first.
All of it is exact: the same pixels as growing each contour by the disk x^2 + y^2 <= r^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Planes = NDArray[np.uint8]  # [H, W], bit k of a byte is mask k
Window = tuple[slice, slice]

BITS = 8


def radius_of(tolerance: float, size: tuple[int, int]) -> int:
    """Pixels that two contours may lie apart: `tolerance` is a share of the diagonal, or pixels where it is 1 or more."""
    return math.ceil(tolerance * math.hypot(*size)) if tolerance < 1 else math.ceil(tolerance)


def planes_of(masks: Sequence[Mask], window: Window) -> Planes:
    """At most eight masks [H, W] as one array of bytes, cut to `window`."""
    assert 0 < len(masks) <= BITS, f"a byte holds 1 to {BITS} masks, not {len(masks)}"
    planes = masks[0][window].astype(np.uint8)
    for bit, mask in enumerate(masks[1:], start=1):
        planes |= mask[window].view(np.uint8) << np.uint8(bit)
    return planes


def window_of(masks: Sequence[Mask]) -> Window:
    """Where any of the masks [H, W] is, and a pixel around unless the frame ends.

    Contours inside it are those of the whole masks, because outside nothing changes.
    """
    joint = masks[0].copy()
    for mask in masks[1:]:
        np.logical_or(joint, mask, out=joint)
    rows, columns = np.flatnonzero(joint.any(axis=1)), np.flatnonzero(joint.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2),
        slice(max(0, int(columns[0]) - 1), int(columns[-1]) + 2),
    )


def edges_of(planes: NDArray[np.generic]) -> Planes:
    """Pixels [H, W] that differ from their neighbour to the east, south or south-east; the frame's edge is none.

    Takes masks as bools too: those are one bit a byte.
    """
    bits = planes.view(np.uint8)
    edges = np.zeros_like(bits)
    edges[:, :-1] |= bits[:, :-1] ^ bits[:, 1:]
    edges[:-1] |= bits[:-1] ^ bits[1:]
    edges[:-1, :-1] |= bits[:-1, :-1] ^ bits[1:, 1:]
    return edges


def grown(planes: Planes, radius: int) -> Planes:
    """Every pixel [H, W] within `radius` of a set one, bit by bit."""
    reach = planes.copy()  # of a row: grown by so many pixels to both sides
    width, result = 0, None
    for rise in range(radius, -1, -1):
        wanted = math.isqrt(radius * radius - rise * rise)
        while width < wanted:
            reach, width = _widened(reach), width + 1
        result = reach.copy() if result is None and rise == 0 else _with_rows(result, reach, rise)
    assert result is not None
    return result


def _widened(rows: Planes) -> Planes:
    """A pixel more to both sides."""
    wide = rows.copy()
    wide[:, 1:] |= rows[:, :-1]
    wide[:, :-1] |= rows[:, 1:]
    return wide


def _with_rows(result: Planes | None, rows: Planes, rise: int) -> Planes:
    """`result` and copies of `rows`, `rise` pixels up and down."""
    union = np.zeros_like(rows) if result is None else result
    if rise == 0:
        union |= rows
    elif rise < len(rows):
        union[rise:] |= rows[:-rise]
        union[:-rise] |= rows[rise:]
    return union


def counts_of(planes: Planes, bits: int) -> list[int]:
    """Set pixels of each of the first `bits` masks."""
    return [int(np.count_nonzero(planes & np.uint8(1 << bit))) for bit in range(bits)]
