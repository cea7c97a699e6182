"""How many threads matrix products use: one each, where we spread the work over threads ourselves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


def cores() -> int:
    """How many cores this process may use now."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CORES = cores()

_lock = threading.Lock()
_mine = threading.local()  # .depth: how many of them are around each other in this thread
_inside = 0  # threads that are in `single_blas` now
_before: list[int] = []  # the numbers of threads to go back to


def share_the_cores() -> None:
    """For a process that answers many at once, from its main thread: no thread of a library waits for another one on a core.

    OpenMP's threads sleep while they wait, where by spinning they would keep the cores from whatever comes between two searches, but for
    the 20 µs in which the other half of a batch is done; that is said to processes that it starts as well, and has no effect once FAISS
    is loaded. BLAS has one thread: on busy cores two of them wait for each other, and a product of .5 ms took 24.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for library in _blas():
        _set(library, 1)
    _blas.cache_clear()  # others may be loaded later, and ask


@contextmanager
def single_blas() -> Iterator[None]:
    """numpy's BLAS on one thread for what this thread does in here. Re-entrant.

    BLAS's own threads wait for each other at every product: of eight folds fitted by two threads at a time half of the processor's time
    was such waiting. Where OpenBLAS is built with OpenMP the number is each thread's own: every thread sets it and puts it back. Otherwise
    it is the process's: the first thread sets it, and the last one that leaves puts it back.
    """
    global _inside, _before  # noqa: PLW0603  # it is the process's setting
    libraries = _blas()
    depth = getattr(_mine, "depth", 0)
    _mine.depth = depth + 1
    if depth == 0:
        with _lock:
            if _inside == 0:
                _before = [library.num_threads for library in libraries]
            for library in libraries:
                if _inside == 0 or not _shared(library):
                    _set(library, 1)
            _inside += 1
    try:
        yield
    finally:
        _mine.depth = depth
        if depth == 0:
            with _lock:
                _inside -= 1
                for library, number in zip(libraries, _before, strict=True):
                    if _inside == 0 or not _shared(library):
                        _set(library, number)


def helpers(count: int, name: str) -> ThreadPoolExecutor:
    """Threads that each compute alone with torch, beside one that has torch's own threads at its disposal.

    A thread that torch first computes in gets OpenMP threads of its own, which then wait for work by spinning: on two cores they took
    half of the time of whoever computed in earnest.
    """
    return ThreadPoolExecutor(count, name, initializer=_alone)


def _alone() -> None:
    torch = sys.modules.get("torch")  # who has not imported it does not compute with it
    if torch is None:
        return
    torch.get_num_threads()  # it sets a thread's number when first asked in it, and not again
    with _lock:
        for library in _openmp():
            _set(library, 1)  # OpenMP's number is each thread's own


def _shared(library: Any) -> bool:
    """Whether all threads of the process have one number."""
    return getattr(library, "threading_layer", None) != "openmp"


def _set(library: Any, number: int) -> None:
    """From any thread: newer versions of threadpoolctl ignore all but the first that ever did so, until it gives up."""
    give_up = getattr(library, "clear_controlling_thread", None)
    if give_up is not None:
        give_up(force=True)
    library.set_num_threads(number)
    if give_up is not None:
        give_up()


@lru_cache(maxsize=1)
def _blas() -> list[Any]:
    """The libraries; looking for them takes some milliseconds."""
    import numpy as np  # noqa: F401  # so that its own is there

    return _libraries("blas")


@lru_cache(maxsize=1)
def _openmp() -> list[Any]:
    """Those that are loaded; torch's own among them, whose thread asks."""
    return _libraries("openmp")


def _libraries(kind: str) -> list[Any]:
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api=kind).lib_controllers)
