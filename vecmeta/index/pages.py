"""Large pages for what is read at random: a walk through a graph jumps from page to page, and each costs a look into the page tables."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from numpy.typing import NDArray

PAGE = 2 << 20  # bytes of a large page
PIECE = 2 * PAGE  # what is made of large pages at once: some 6 ms
_HUGE, _COLLAPSE = 14, 25  # MADV_HUGEPAGE; MADV_COLLAPSE, Linux 6.1 and later: now, instead of when the kernel gets to it


def pieces(memory: NDArray[Any]) -> list[tuple[int, int]]:
    """Where whole large pages lie in an array: (address, bytes), none longer than PIECE."""
    start = -(-memory.ctypes.data // PAGE) * PAGE
    end = (memory.ctypes.data + memory.nbytes) // PAGE * PAGE
    return [(at, min(PIECE, end - at)) for at in range(start, end, PIECE)]


def enlarge(address: int, length: int) -> None:
    """Ask for large pages under a piece of this process's own memory, which others may go on reading.

    Where the system has none, nothing happens.
    """
    advise = _madvise()
    if advise is not None:
        for advice in (_HUGE, _COLLAPSE):
            advise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice))


@cache
def _madvise() -> Any:
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
