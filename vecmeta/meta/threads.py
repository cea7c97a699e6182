"""One thread for tiny tensors and small convolutions, numpy's products among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vecmeta.threads import single_blas

_lock = threading.Lock()
_mine = threading.local()  # .depth: how many of them are around each other in this thread
_inside = 0  # how many are in `one_thread` now
_outside = 1  # the number of threads to go back to


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of an episode are tiny: threads cost more than they bring, and one thread always adds in the same order.

    Where another program wants the second core, two threads also wait for each other at every operation. The setting belongs
    partly to the calling thread and partly to the process, so two adaptations side by side must not take the other's 1 for what
    was there before. One within another, as when a training scores its start, leaves the setting to the outer one.
    """
    global _inside, _outside  # noqa: PLW0603  # it is the process's setting
    depth = getattr(_mine, "depth", 0)
    with _lock:
        if _inside == 0:
            _outside = torch.get_num_threads()
        _inside += 1
    _mine.depth = depth + 1
    torch.set_num_threads(1)
    try:
        with single_blas():
            yield
    finally:
        with _lock:
            _inside -= 1
        _mine.depth = depth
        if depth == 0:
            torch.set_num_threads(_outside)
