"""Memory that mapped files take: given back once their values were used, so that a large file never lies in memory whole.

Only pages of a file that is mapped privately are given back, and nothing here writes to mapped tensors, so the values are
read from the file again when they are needed again. Linux tells what is mapped; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")
_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)


def release(tensor: Tensor) -> None:
    """Gives back the whole pages below a tensor's values, where they are those of a mapped file."""
    if _DONT_NEED is None or tensor.device.type != "cpu" or not _MAPS.exists():
        return
    begin = tensor.untyped_storage().data_ptr()
    end = begin + tensor.untyped_storage().nbytes()
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last and _is_of_a_file(first, last):
        library = ctypes.CDLL(None)
        library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(_DONT_NEED))


def _is_of_a_file(first: int, last: int) -> bool:
    """Whether a range of addresses lies in one private mapping of a file that exists."""
    for line in _MAPS.read_text().splitlines():
        span, rights, _, _, node, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split("-"))
        if begin <= first and last <= end:
            return rights.endswith("p") and node != "0" and bool(path) and path[0].startswith("/")
    return False
