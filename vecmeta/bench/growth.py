"""How time and memory grow with a collection: adding, searching and adapting at several sizes, and the slopes on log-log axes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vecmeta as vm
from vecmeta.bench.cold import disk, go_live
from vecmeta.bench.machine import machine
from vecmeta.bench.memory import peak_memory
from vecmeta.bench.processes import alone
from vecmeta.bench.reindex import EF_CONSTRUCTION, M
from vecmeta.bench.streams import Stream, fill, settled, teach
from vecmeta.index.graph import faiss
from vecmeta.types import Vectors

SIZES = (1_000, 10_000, 100_000, 1_000_000)
# What grows, and what it is called in the chart and the table.
TIMES = {
    "add": "add",
    "add_settled": "add until settled",
    "faiss": "FAISS alone, one graph",
    "search_base": "search, base (p50)",
    "search_live": "search, adapted (p50)",
    "adapt": "adapt",
}
SPACES = {"memory_added_bytes": "peak memory, adding", "peak_memory_bytes": "peak memory, adapting", "disk_bytes": "on disk"}


def run(
    sizes: Sequence[int] = SIZES,
    dim: int = 384,
    seed: int = 0,
    *,
    adapt: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure every size in a process of its own, and in another one what faiss takes for its graph.

    Returns:
        ``by_size``: for each size seconds by TIMES, bytes by SPACES, ``memory_at_start_bytes``, and the adaptation's ``decision``;
        ``slopes``: for each of them ``all`` (least squares of the logarithms) and ``last`` (of the last step), None where a value is 0;
        "n log n" among them, as it would grow over the same sizes.

    Raises:
        InvalidConfig: fewer than two different sizes, sizes below 100 (too few to teach), dim below 1.
    """
    wanted = sorted(set(sizes))
    if len(wanted) < 2 or wanted[0] < 100:
        raise vm.InvalidConfig(f"two or more different sizes from 100 are needed, not {list(sizes)}")
    Stream(wanted[0], dim, seed)
    found: dict[str, dict[str, Any]] = {}
    for done, count in enumerate(wanted):
        if progress is not None:
            progress(f"{count:,} items", done, len(wanted))
        found[str(count)] = alone(__name__, "measure", count=count, dim=dim, seed=seed, adapt=adapt)
        found[str(count)]["faiss"] = alone(__name__, "linked", count=count, dim=dim, seed=seed)
    if progress is not None:
        progress("done", len(wanted), len(wanted))
    n = np.array(wanted, float)
    series = {
        name: np.array([one[name] for one in found.values()], float)
        for name in (*TIMES, *SPACES)
        if name in found[str(wanted[0])]
    }
    return {
        **machine(),
        "settings": {"sizes": wanted, "dim": dim, "seed": seed},
        "by_size": found,
        "slopes": {name: slopes(n, values) for name, values in {**series, "n log n": n * np.log(n)}.items()},
    }


def slopes(n: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> dict[str, float | None]:
    """The exponents of growth: of all sizes by least squares, and of the last step alone. (sizes,), (sizes,)."""
    if (values <= 0).any():
        return {"all": None, "last": None}
    x, y = np.log(n), np.log(values)
    return {"all": round(float(np.polyfit(x, y, 1)[0]), 4), "last": round(float((y[-1] - y[-2]) / (x[-1] - x[-2])), 4)}


def measure(count: int, dim: int, seed: int, adapt: bool) -> dict[str, Any]:
    """In this process: one size; without `adapt` only what comes before it."""
    stream, start = Stream(count, dim, seed), peak_memory()
    with tempfile.TemporaryDirectory(prefix="vecmeta-bench-") as folder, vm.open(folder, device="cpu") as db:
        c = db.create("growth", encoder="vectors", dim=dim)
        add = fill(c, stream)
        add_settled = add + settled(c)
        found = {"add": add, "add_settled": add_settled, "memory_at_start_bytes": start, "memory_added_bytes": peak_memory()}
        queries = stream.queries()
        found["search_base"] = _search(c, queries, 0)
        if adapt:
            found |= _adapted(c, stream, queries)
        return {**found, "disk_bytes": disk(Path(folder))}


def linked(count: int, dim: int, seed: int) -> float:
    """Seconds in which faiss alone links the same vectors in random order: what any use of its graph takes at the least."""
    rows = np.concatenate([chunk for _, chunk in Stream(count, dim, seed).chunks()])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.random.default_rng(seed).shuffle(rows)
    index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    begin = time.perf_counter()
    index.add(rows)
    return time.perf_counter() - begin


def _adapted(collection: vm.Collection, stream: Stream, queries: Vectors) -> dict[str, Any]:
    """The adaptation is warm: a dry run before it has imported and started what the first one needs."""
    teach(collection, stream)
    collection.adapt(dry_run=True, seed=stream.seed)
    begin = time.perf_counter()
    report = collection.adapt(seed=stream.seed)
    seconds = time.perf_counter() - begin
    go_live(collection, report)
    settle = settled(collection)
    return {
        "adapt": seconds,
        "settle_after_adapt": settle,
        "stages": dict(report.seconds),
        "decision": report.decision,
        "search_live": _search(collection, queries, collection.live),
        "peak_memory_bytes": peak_memory(),
    }


def _search(collection: vm.Collection, queries: Vectors, version: int) -> float:
    """The median of seconds of a search for one query, ids and metadata included."""
    seconds = []
    collection.search(queries[0], 10, version=version)
    for query in queries:
        begin = time.perf_counter()
        collection.search(query, 10, version=version)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
