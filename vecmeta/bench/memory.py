"""How much memory this process holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes.

    Linux tells it of the program that runs now; getrusage would count the process that started it as well, which Python starts with vfork.
    """
    try:
        line = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """The resident memory of this process now, in bytes; where the system does not tell, its largest so far."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()
