"""What starting costs, each in a fresh process: the import, the command's help, and the first search of a collection that was closed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.machine import machine
from vecmeta.bench.processes import alone, last_line
from vecmeta.bench.streams import Stream, fill, settled, teach

NAME = "cold"
# It imports nothing before the clock runs that vecmeta would import.
_SEARCH = """
import sys, time
begin = time.perf_counter()
import vecmeta as vm
imported = time.perf_counter()
vector = [float(number) for number in open(sys.argv[2])]
read = time.perf_counter()
with vm.open(sys.argv[1], device="cpu") as db, db.collection("cold") as c:
    hits = c.search(vector, 10)
    first = time.perf_counter()
    c.search(vector[::-1], 10)
    second = time.perf_counter()
    import json
    print(json.dumps({"import": imported - begin, "first_search": first - read, "with_import": first - read + imported - begin,
                      "second_search": second - first, "version": hits.version, "hits": len(hits)}))
"""


def run(
    count: int = 100_000,
    dim: int = 384,
    repeats: int = 5,
    seed: int = 0,
    *,
    live: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Medians of seconds over `repeats` fresh processes.

    Files are in the system's cache, as on a machine where the collection was just written; what a disk adds is the disk's.

    Returns:
        ``python_process`` that does nothing, ``import_process`` and ``help_process``, from start to end; ``base`` and, if `live`, ``live``
        (after an adaptation), of a collection of `count` clustered vectors: ``import``, ``first_search`` from opening to hits,
        ``with_import``, both, and ``second_search``.

    Raises:
        InvalidConfig: count, dim or repeats below 1.
    """
    if repeats < 1:
        raise vm.InvalidConfig(f"repeats is a whole number from 1, not {repeats}")
    Stream(count, dim, seed)  # raises before anything is measured
    tell = progress or (lambda *_: None)
    python = [sys.executable]
    parts = ("base", "live") if live else ("base",)
    steps = 2 * len(parts)
    tell("starting", 0, steps)
    facts: dict[str, Any] = {
        **machine(),
        "settings": {"count": count, "dim": dim, "repeats": repeats, "seed": seed},
        "python_process": median(_seconds([*python, "-c", "pass"]) for _ in range(repeats)),
        "import_process": median(_seconds([*python, "-c", "import vecmeta"]) for _ in range(repeats)),
        "help_process": median(_seconds([*python, "-m", "vecmeta", "--help"]) for _ in range(repeats)),
    }
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder:
        for place, part in enumerate(parts):
            tell("filling" if part == "base" else "adapting", 2 * place, steps)
            made = alone(__name__, "fill_" + part, folder=folder, count=count, dim=dim, seed=seed)
            tell("first searches", 2 * place + 1, steps)
            facts[part] = {**made, **first_searches(folder, repeats, version=place)}
    tell("done", steps, steps)
    return facts


def first_searches(folder: str, repeats: int, version: int) -> dict[str, float]:
    """Medians over fresh processes; see `run`. Raises VecmetaError when the answer is not that of the version."""
    found = [last_line([sys.executable, "-c", _SEARCH, f"{folder}/data", f"{folder}/query"]) for _ in range(repeats)]
    if any(one["version"] != version or not one["hits"] for one in found):
        raise vm.VecmetaError(
            f"the first search of version {version} had {found[0]['hits']} hits of version {found[0]['version']}"
        )
    return {name: median(one[name] for one in found) for name in ("import", "first_search", "with_import", "second_search")}


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - begin


def fill_base(folder: str, count: int, dim: int, seed: int) -> dict[str, Any]:
    """In this process: a collection, filled and closed; and a query beside it, one number a line."""
    stream = Stream(count, dim, seed)
    np.savetxt(Path(folder) / "query", stream.queries()[0])
    with vm.open(f"{folder}/data", device="cpu") as db, db.create(NAME, encoder="vectors", dim=dim) as c:
        fill(c, stream)
        settled(c)
    return {"disk_bytes": disk(Path(folder) / "data")}


def fill_live(folder: str, count: int, dim: int, seed: int) -> dict[str, Any]:
    """In this process: the collection is adapted and closed again; version 1 is live whatever the trial says."""
    with vm.open(f"{folder}/data", device="cpu") as db, db.collection(NAME) as c:
        teach(c, Stream(count, dim, seed))
        go_live(c, c.adapt(seed=seed))
        settled(c)
    return {"disk_bytes": disk(Path(folder) / "data")}


def go_live(collection: vm.Collection, report: vm.Report) -> None:
    """Make an adaptation's version live also where it was kept back, so that there is something to measure. Raises VecmetaError."""
    if report.version is None:
        raise vm.VecmetaError(f"there is no version to measure: {report.reason}")
    if collection.live != report.version:
        collection.activate(report.version)


def disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
