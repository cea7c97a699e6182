"""Where figures come from: the machine, the versions, and a short name for what makes figures comparable."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vecmeta as vm
from vecmeta.encoders.weights import gpu_of
from vecmeta.threads import cores

LIBRARIES = ("torch", "numpy", "faiss-cpu", "sqlalchemy")
THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # what changes a library's threads


def machine(device: str = "cpu") -> dict[str, str | int]:
    """The header of every benchmark, of what is measured on that device (as for `vecmeta.open`).

    `machine` is the same where figures may be compared: it is made of the processor, the cores that this process may use, the memory
    in whole gigabytes, the operating system and the GPU, if one is used, not of a name. Versions and threads are told besides, and may
    differ.
    """
    system, memory, usable = platform.system(), _memory(), cores()
    processor, architecture = _processor(), platform.machine()
    gpu = {"gpu": model} if (model := gpu_of(device)) else {}
    same = "|".join(str(part) for part in (processor, architecture, usable, memory, system, *gpu.values()))
    return {
        "machine": hashlib.sha256(same.encode()).hexdigest()[:12],
        "processor": processor,
        "architecture": architecture,
        "cores": usable,
        "memory_gib": memory,
        "system": system,
        **gpu,
        "release": platform.release(),
        "threads": ", ".join(f"{name}={os.environ[name]}" for name in THREADS if name in os.environ) or "not set",
        "python": platform.python_version(),
        "vecmeta": vm.__version__,
        **{name: _version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    """Its model as the system calls it; with the numbers that tell models apart where virtual machines call them all the same."""
    about: dict[str, str] = {}
    if sys.platform == "darwin":
        told = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        about = {"model name": told.stdout.strip()}
    elif Path("/proc/cpuinfo").exists():
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
        about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = about.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{key.removeprefix('CPU ').removeprefix('cpu ')} {about[key]}"
        for key in ("cpu family", "model", "CPU implementer", "CPU part")
        if key in about
    ]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _memory() -> int:
    """In gibibytes, rounded: what is left of it after start-up differs from kernel to kernel; 0 where it is not told."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    except (ValueError, OSError, AttributeError):
        return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # faiss goes by other names too
        return "not installed"
