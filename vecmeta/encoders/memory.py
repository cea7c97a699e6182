"""Work on many things at once that is halved when it does not fit into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from vecmeta.errors import EncoderUnavailable

T = TypeVar("T")

_SAID = ("out of memory", "can't allocate memory", "alloc_failed")  # by torch, its allocator on the processor, cuBLAS and cuDNN


def halved(work: Callable[[int], T], size: int, least: int, complaint: str) -> tuple[T, int]:
    """What `work(size)` returns, or `work` with half as much and so on, and the size that fitted into memory.

    Raises:
        EncoderUnavailable: not even `least` fits; says `complaint`.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size <= least:
                raise EncoderUnavailable(f"out of memory: {complaint}") from error
        # Out of the handler: the error's traceback would hold on to what did not fit.
        size = max(least, size // 2)
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error tells of a lack of memory, the device's or the processor's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(said in text for said in _SAID)
