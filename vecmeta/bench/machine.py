"""Where figures come from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import vecmeta as vm


def machine() -> dict[str, str | int]:
    """Processor, cores and versions."""
    libraries = {name: version(name) for name in ("torch", "numpy", "faiss-cpu")}
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "vecmeta": vm.__version__,
        **libraries,
    }
